"""Where layers go, what that takes of each device, and what follows for evictions: decisions without processes."""

from dataclasses import replace
from pathlib import Path

import pytest
from specs import spec_of
from tiny_models import make_llama

from fastrouter.catalog.gguf import read_header
from fastrouter.config.config import Config
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.decide.need import Need, on_devices, total
from fastrouter.supervisor.decide.planner import Limits, Resident, Waiting, plan
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.memory.estimate import estimate
from fastrouter.supervisor.memory.limits import LimitReader
from fastrouter.supervisor.memory.placement import HOST, devices_of, places_of

GIB = 1 << 30
ONE, TWO = "RPC0[a:1]", "RPC0[b:2]"
KNOWN = {"CUDA0": 24 * GIB, "CUDA1": 8 * GIB, ONE: 16 * GIB, "RPC1[a:1]": 16 * GIB}


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        ({}, ["CUDA0", "CUDA1"]),
        ({"rpc": ["a:1", "b:2"]}, [ONE, "RPC1[a:1]", TWO, "CUDA0", "CUDA1"]),
        ({"devices": ["none"]}, []),
        ({"devices": ["CUDA1"]}, ["CUDA1"]),
        ({"rpc": ["b:2", "a:1"], "devices": ["RPC2", "RPC0", "CUDA0"]}, ["RPC1[a:1]", TWO, "CUDA0"]),
        ({"devices": ["RPC0", "Vulkan0"]}, []),
        ({"split_mode": "none", "main_gpu": 1}, ["CUDA1"]),
    ],
)
def test_devices_of_a_model(options: dict[str, object], devices: list[str]) -> None:
    assert devices_of(LoadOptions(**options), KNOWN) == devices  # type: ignore[arg-type]


def places(num_layers: int, **options: object) -> str:
    """A letter for each layer and the output: h host, a and b the devices."""
    letters = {HOST: "h", ONE: "a", TWO: "b"}
    found = places_of(LoadOptions(rpc=["a:1", "b:2"], **options), num_layers, {ONE: 3 * GIB, TWO: GIB})  # type: ignore[arg-type]
    return "".join(letters[place] for place in found)


def test_places_of_layers() -> None:
    """The last ones move first, the output before them; the devices share them by their memory, or as asked."""
    assert places(7) == "aaaaaabb"
    assert places(7, gpu_layers=0) == "hhhhhhhh"
    assert places(7, gpu_layers=1) == "hhhhhhha"
    assert places(7, gpu_layers=4) == "hhhhaaab"
    assert places(7, gpu_layers=99, tensor_split=[1.0, 1.0]) == "aaaabbbb"
    assert places(7, tensor_split=[0.0, 1.0]) == "bbbbbbbb"
    assert places(7, tensor_split=[1.0]) == "aaaaaaaa"
    assert places(3, devices=["RPC1"]) == "bbbb"


def test_what_moves_leaves_the_host(tmp_path: Path) -> None:
    path = make_llama(tmp_path / "tiny.gguf")
    spec = spec_of(
        "a", str(path), header=read_header(path), options=LoadOptions(ctx_size=1 << 16, rpc=["a:1", "b:2"], tensor_split=[1.0, 1.0])
    )

    def need(**options: object) -> Need:
        return estimate(replace(spec, options=replace(spec.options, **options)))  # type: ignore[arg-type]

    nothing, everything = need(gpu_layers=0), need()
    assert nothing.by_device == ()
    assert everything.host_bytes < nothing.host_bytes
    assert {name for name, _ in everything.by_device} == {ONE, TWO}
    assert everything.device_bytes == everything.on(ONE) + everything.on(TWO)
    on_host = need(kv_offload=False)
    assert on_host.device_bytes < everything.device_bytes
    assert on_host.host_bytes > everything.host_bytes
    assert need(devices=["none"]) == nothing


def test_bytes_of_devices_add_up() -> None:
    one, two = on_devices(1, {"a": 2, "b": 3, "c": 0}), on_devices(10, {"b": 4})
    assert one + two == Need(11, 9, (("a", 2), ("b", 7)))
    assert one + two - two == one
    assert total([one, two]).on("b") == 7
    assert one.covers(on_devices(1, {"b": 3}))
    assert not one.covers(on_devices(0, {"b": 4}))
    assert not on_devices(9, {"a": 9}).covers(Need(0, 0, (("b", 1),)))


def resident(model_id: str, need: Need, last_used: float, **more: object) -> Resident:
    return Resident(model_id, State.LOADED, 0, last_used, need, **more)  # type: ignore[arg-type]


def test_only_what_uses_the_full_device_leaves() -> None:
    """Also when another device's model has not been used for much longer."""
    residents = [resident("old", on_devices(1, {"b": 6}), 0.0), resident("new", on_devices(1, {"a": 6}), 90.0)]
    limits = Limits(by_device=(("a", 10), ("b", 10)))
    decided = plan([Waiting("c", 99.0, on_devices(1, {"a": 6}))], residents, limits, 100.0)
    assert (decided.evict, decided.start) == ({"new": "memory"}, [])
    both = plan([Waiting("c", 99.0, on_devices(1, {"a": 6, "b": 6}))], residents, limits, 100.0)
    assert both.evict == {"old": "memory", "new": "memory"}
    fits = plan([Waiting("c", 99.0, on_devices(1, {"a": 4, "other": 99}))], residents, limits, 100.0)
    assert (fits.evict, fits.start) == ({}, ["c"])


def test_what_one_device_can_never_hold_is_refused() -> None:
    limits = Limits(by_device=((ONE, GIB),))
    decided = plan([Waiting("c", 0.0, on_devices(0, {ONE: 2 * GIB}))], [], limits, 1.0)
    assert decided.refuse == {"c": f"it needs 2.0 GiB of memory of {ONE}, and 1.0 GiB is the limit for all models"}
    pinned = [resident("p", on_devices(0, {ONE: GIB // 2}), 0.0, is_pinned=True)]
    decided = plan([Waiting("c", 0.0, on_devices(0, {ONE: GIB}))], pinned, limits, 1.0)
    assert "beside the 512.0 MiB of pinned models (p)" in decided.refuse["c"]


def test_limits_of_devices() -> None:
    reader = LimitReader(Config())
    assert reader.read([]).by_device == ()
    reader.note_devices({"CUDA0": (400, 1000), ONE: (1000, 1000)}, on_devices(0, {"CUDA0": 500, ONE: 300}))
    assert dict(reader.read([]).by_device) == {"CUDA0": 900, ONE: 1000}
    assert reader.read([]).all_devices_bytes == 1900
    asked = LimitReader(Config(models_memory_devices=((ONE, 1),)))
    asked.note_devices({"CUDA0": (400, 1000), ONE: (1000, 1000)}, Need())
    assert dict(asked.read([]).by_device) == {"CUDA0": 400, ONE: 1 << 20}
    together = LimitReader(Config(models_memory_device_mib=5))
    together.note_devices({"CUDA0": (400, 1000)}, Need())
    assert (together.read([]).device_bytes, together.read([]).by_device) == (5 << 20, ())
    assert LimitReader(Config(models_memory_device_mib=0)).read([]).all_devices_bytes is None
