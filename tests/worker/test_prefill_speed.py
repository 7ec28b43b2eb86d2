"""How much of a prompt goes into a step."""

from fastrouter.worker.prefill_speed import ALONE_NS, MIN_ROWS, PAUSE_NS, PrefillSpeed


def test_alone_a_prompt_gets_whole_batches_or_halves_where_one_takes_too_long() -> None:
    speed = PrefillSpeed()
    assert speed.num_rows(0, 512) == 512
    for num_fitting, expected in ((1000, 512), (511, 256), (256, 256), (100, 64), (1, 32)):
        speed = PrefillSpeed()
        speed.note_prefill(100, 100 * ALONE_NS // num_fitting)
        assert speed.num_rows(0, 512) == expected
        assert speed.num_rows(0, 48) == 48, "halves of it would be too small"


def test_what_a_step_will_take_is_guessed_before_it_is_measured() -> None:
    speed = PrefillSpeed(3_000_000_000)
    assert 1e9 < speed.expected_ns(100) < 1e11
    speed.note_prefill(100, 100)
    assert speed.expected_ns(100) == 100


def test_beside_streams_it_gets_what_takes_a_pause() -> None:
    speed = PrefillSpeed()
    speed.note_prefill(100, PAUSE_NS)
    assert speed.num_rows(3, 512) == 103
    assert speed.num_rows(3, 64) == 64


def test_the_first_piece_is_small_because_its_time_is_unknown() -> None:
    assert PrefillSpeed().num_rows(3, 512) == 3 + MIN_ROWS
    assert PrefillSpeed().num_rows(3, 16) == 16


def test_a_slow_model_still_gets_on() -> None:
    speed = PrefillSpeed()
    speed.note_prefill(100, 1000 * PAUSE_NS)
    assert speed.num_rows(3, 512) == 3 + MIN_ROWS


def test_it_follows_what_is_measured_and_leaves_small_steps_out() -> None:
    speed = PrefillSpeed()
    speed.note_prefill(7, 10**12)
    assert not speed.prefill_ns
    for _ in range(50):
        speed.note_prefill(100, PAUSE_NS // 2)
    speed.note_prefill(7, 10**12)
    assert 199 <= speed.num_rows(1, 512) - 1 <= 201
