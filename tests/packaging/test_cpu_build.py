"""The portable build of llama.cpp: what its instructions must be, whatever this machine's CPU is."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, StartRouter

from fastrouter.supervisor.remedies import NONE, Remedies, Remedy
from fastrouter.system.build import cpu_build_id
from fastrouter.system.fact_file import FactFile
from fastrouter.worker.llama import cpu_variants
from fastrouter.worker.llama.binding import backend_folder

sys.path.insert(0, str(REPOSITORY / "packaging"))

import llama_wheel
import tile_config
import try_variants

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is there on x86-64 only")

# The code that GCC 12 makes of llama.cpp's ggml-cpu/amx/mmq.cpp: without and with llama_wheel.COMPILER_FLAGS.
BAD = """
   2fece:\tvpxor  %xmm0,%xmm0,%xmm0
   2fed2:\tvmovdqa64 %zmm0,0xc0(%rsp)
   2feda:\tmovb   $0x1,0xc0(%rsp)
   2fee2:\tldtilecfg 0xc0(%rsp)
"""
GOOD = """
   2ff2e:\tvpxor  %xmm0,%xmm0,%xmm0
   2ff32:\tmov    0x0(%rip),%rdx        # 2ff39 <_Z24ggml_backend_amx_mul_mat+0x2f9>
   2ff39:\tvmovdqa64 %zmm0,0xc0(%rsp)
   2ff41:\tvmovdqa 0x0(%rip),%xmm0        # 2ff49 <_Z24ggml_backend_amx_mul_mat+0x309>
   2ff49:\tmovb   $0x1,0xc0(%rsp)
   2ff51:\tmov    %rdx,0xf0(%rsp)
   2ff59:\tvmovdqa %xmm0,0xd0(%rsp)
   2ff62:\tldtilecfg 0xc0(%rsp)
"""
AT_ONCE = """
   10:\tvmovdqa64 0x0(%rip),%zmm1        # 16 <f+0x16>
   16:\tvmovdqa64 %zmm1,-0x40(%rsp)
   1e:\tldtilecfg -0x40(%rsp)
"""
SCALARS = """
   10:\tmovabs $0x20002000400040,%rax
   1a:\tmov    %rax,0x10(%rdi)
   1e:\tmovabs $0x1010101010100808,%rax
   28:\tmov    %rax,0x30(%rdi)
   2c:\tldtilecfg (%rdi)
"""
NO_ROWS = GOOD.replace("mov    %rdx,0xf0(%rsp)", "nop")
ELSEWHERE = GOOD.replace("%rdx,0xf0(%rsp)", "%rdx,0xf0(%rbp)")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [(BAD, "widths and rows"), (GOOD, ""), (AT_ONCE, ""), (SCALARS, ""), (NO_ROWS, "tiles' rows"), (ELSEWHERE, "tiles' rows")],
    ids=["bad", "good", "at once", "scalars", "no rows", "elsewhere"],
)
def test_stores_before_a_tile_configuration(text: str, wrong: str) -> None:
    found = tile_config.unconfigured(text.splitlines())
    assert len(found) == bool(wrong)
    assert not wrong or found[0].endswith(wrong)


@on_x86
def test_the_installed_build_configures_its_tiles() -> None:
    library = backend_folder() / "libggml-cpu-sapphirerapids.so"
    if not library.exists():
        pytest.skip("llama.cpp is a build of its own here, not the portable one")
    lines = tile_config.disassembly(library)
    assert tile_config.num_tile_products(lines) > 50, "AMX is used"
    assert any("ldtilecfg" in line for line in lines)
    assert not tile_config.unconfigured(lines)


TILES = r"""
#include <immintrin.h>
struct Config { unsigned char palette = 0, start = 0, unused[14] = {0}; unsigned short widths[16] = {0}; unsigned char rows[16] = {0}; };
void configure() {
    static thread_local bool is_done = false;
    if (is_done) return;
    alignas(64) Config config = {};
    config.palette = 1;
    for (int tile = 0; tile < 8; tile++) config.rows[tile] = 16, config.widths[tile] = 64;
    _tile_loadconfig(&config);
    is_done = true;
}
"""


@on_x86
def test_the_flags_keep_the_stores(tmp_path: Path) -> None:
    """With this machine's compiler, for the wheel and for the executable, which uses the same flags."""
    (tmp_path / "tiles.cpp").write_text(TILES)
    command = ["g++", "-O3", "-fPIC", "-mavx512f", "-mamx-tile", *llama_wheel.COMPILER_FLAGS.split(), "-c", "tiles.cpp", "-o", "tiles.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    lines = tile_config.disassembly(tmp_path / "tiles.o")
    assert any("ldtilecfg" in line for line in lines)
    assert not tile_config.unconfigured(lines)


@on_x86
def test_the_wheel_and_the_executable_have_the_same_flags() -> None:
    import dist

    assert "-fno-tree-dse -fno-dse" in llama_wheel.COMPILER_FLAGS
    assert dist.LLAMA_FLAGS.startswith(llama_wheel.CMAKE_ARGS)
    assert llama_wheel.CMAKE_ARGS.count(llama_wheel.COMPILER_FLAGS) == 2, "for C and for C++"


def test_a_loaded_model_names_the_variant(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    assert "cpu" not in server.get("/v1/models/tiny0").json["meta"]
    server.load("tiny0")
    names = [cpu_variants.name_of(path) for path in cpu_variants.runnable(backend_folder())]
    assert server.get("/v1/models/tiny0").json["meta"]["cpu"] == {"variant": [*names, "native"][0], "is_repacking": True}


# ---------------------------------------------------------------- what `make install` tries


def test_each_variant_decodes_a_quantised_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert try_variants.main([]) == 0
    said = capsys.readouterr().out
    names = [cpu_variants.name_of(path) for path in cpu_variants.runnable(backend_folder())]
    assert all(f"{name} works" in said for name in names)
    assert not names or said.endswith(f"In use: {names[0]}.\n")
    assert Remedies().known == NONE


CRASHES = """
import os, signal, sys
number, is_safe = sys.argv[2], "--safe" in sys.argv
if number + "safe" * is_safe in {bad!r}:
    os.kill(os.getpid(), signal.SIGILL)
"""


@pytest.mark.parametrize(
    ("bad", "remedy", "said"),
    [
        ({"0"}, Remedy(False, 1), "a was killed by signal 4 (SIGILL), b works, c works, d works. In use: b. A better build"),
        ({"1", "3"}, NONE, "In use: a.\n"),
        ({"0", "1", "2"}, Remedy(True, 0), "In use: a without repacked weights, which is slower. A better build"),
        ({"0", "1", "2", "0safe"}, Remedy(True, 1), "In use: b without repacked weights"),
        ({"0", "1", "2", "0safe", "1safe", "2safe"}, NONE, "no build for this CPU works. A better build"),
    ],
)
def test_a_variant_that_crashes_is_reported_and_dropped(
    bad: set[str], remedy: Remedy, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(try_variants, "TRY", [sys.executable, "-c", CRASHES.format(bad=bad)])
    monkeypatch.setattr(cpu_variants, "runnable", lambda folder: [Path(f"libggml-cpu-{name}.so") for name in "abcd"])
    assert try_variants.main([]) == 0
    assert said in capsys.readouterr().out
    assert Remedies().known == remedy, "as the next router sees it"


@pytest.mark.parametrize("fact", [None, 5, [], {}, {"safe_mode": 1, "num_dropped": "2"}, {"num_dropped": -1}, {"num_dropped": True}])
def test_a_damaged_file_is_no_remedy(fact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = FactFile("cpu", 1, 64)
    kept.put(cpu_build_id(), fact)
    kept.save()
    assert Remedies().known == NONE
