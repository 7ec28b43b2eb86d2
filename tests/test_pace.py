"""How much of a prompt goes into a step."""

from fastrouter.worker.pace import MIN_ROWS, PAUSE_NS, Pace


def test_alone_a_prompt_gets_everything() -> None:
    pace = Pace()
    assert pace.num_rows(3, 512) == 512  # not measured yet
    pace.note_prefill(100, 100 * PAUSE_NS)
    assert pace.num_rows(0, 512) == 512


def test_beside_streams_it_gets_what_takes_a_pause() -> None:
    pace = Pace()
    pace.note_prefill(100, PAUSE_NS)
    assert pace.num_rows(3, 512) == 103
    assert pace.num_rows(3, 64) == 64


def test_a_slow_model_still_gets_on() -> None:
    pace = Pace()
    pace.note_prefill(100, 1000 * PAUSE_NS)
    assert pace.num_rows(3, 512) == 3 + MIN_ROWS


def test_it_follows_what_is_measured_and_leaves_small_steps_out() -> None:
    pace = Pace()
    pace.note_prefill(7, 10**12)
    assert not pace.prefill_ns
    for _ in range(50):
        pace.note_prefill(100, PAUSE_NS // 2)
    pace.note_prefill(7, 10**12)
    assert 199 <= pace.num_rows(1, 512) - 1 <= 201
