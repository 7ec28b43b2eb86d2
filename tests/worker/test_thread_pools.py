"""--cpu-mask, --cpu-range, --cpu-strict, --prio and their -batch forms; --poll."""

import os
from pathlib import Path

import pytest
from conftest import StartRouter, descendants, has_mapped

from fastrouter.config.values import convert, find_argument
from fastrouter.errors import ConfigError, FastrouterError
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.workers.launch import spin_count
from fastrouter.worker.llama.thread_pools import Placement, placements_of

CPU = min(os.sched_getaffinity(0))


def test_mask_and_range_complement_each_other() -> None:
    decode, prefill = placements_of(LoadOptions(cpu_mask=f"{1 << CPU:x}", cpu_range=f"{CPU}-{CPU}", prio=1))
    assert decode == prefill == Placement(frozenset({CPU}), False, 1)
    decode, prefill = placements_of(LoadOptions(cpu_range_batch="-", cpu_strict_batch=1))
    assert decode.is_free
    assert prefill == Placement(frozenset(os.sched_getaffinity(0)), True, 0)


def test_cpus_that_are_not_there() -> None:
    with pytest.raises(FastrouterError, match=r"any of these CPUs: \[511\]"):
        placements_of(LoadOptions(cpu_range="511-511"))


@pytest.mark.parametrize(
    ("flag", "text"),
    [("-C", "0"), ("-C", "xyz"), ("-C", ""), ("-C", "f" * 129), ("-Cr", "3-1"), ("-Cr", "4"), ("-Cr", "0-512"), ("-Crb", "a-b")],
)
def test_bad_values_name_the_flag(flag: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{flag}: must be a (hexadecimal mask|range) of CPUs"):
        convert(find_argument(flag)[0], text, flag)


def test_polling_levels() -> None:
    assert [spin_count(poll) for poll in (0, 50, 100)] == [0, 1000, 300_000]
    assert sorted(map(spin_count, range(101))) == list(map(spin_count, range(101)))


def cpus_of_threads(pid: int) -> set[str]:
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return {line.split()[1] for text in texts for line in text.splitlines() if line.startswith("Cpus_allowed_list")}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")
def test_threads_stay_where_they_are_told(router: StartRouter, models: Path, smollm2: Path, tmp_path: Path) -> None:
    one, *_, other = sorted(os.sched_getaffinity(0))
    sections = f"[one]\nmodel = {models / 'tiny0.gguf'}\ncpu-range = {one}-{one}\nprio = -1\n[free]\nmodel = {models / 'tiny1.gguf'}\n"
    strict = f"[strict]\nmodel = {smollm2}\ncpu-mask = {1 << one | 1 << other:#x}\ncpu-strict = 1\nthreads = 2\nctx-size = 512\n"
    presets = tmp_path / "presets.ini"
    presets.write_text(sections + strict)
    server = router("--models-preset", str(presets), "--poll", "0")
    everywhere = cpus_of_threads(os.getpid())
    found = {}
    for model, path in (("one", models / "tiny0.gguf"), ("free", models / "tiny1.gguf"), ("strict", smollm2)):
        assert server.post("/completion", {"model": model, "prompt": "the cat", "n_predict": 4}).status == 200
        [found[model]] = [pid for pid in descendants(server.process.pid) if has_mapped(pid, path)]
    assert cpus_of_threads(found["one"]) == {str(one)}
    assert os.sched_getscheduler(found["one"]) == os.SCHED_BATCH
    assert cpus_of_threads(found["free"]) == everywhere
    assert {str(one), str(other)} <= cpus_of_threads(found["strict"])
    assert b"GOMP_SPINCOUNT=0" in Path(f"/proc/{found['free']}/environ").read_bytes().split(b"\0")
