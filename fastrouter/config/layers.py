"""Layers of settings: a value goes into one, and one is put over another. Never imports: config.config, config.presets."""

import logging
from typing import Any

from fastrouter.config.flag import Flag, Kind, Layer, Setting
from fastrouter.config.ready_made import READY_MADE
from fastrouter.config.values import convert, find_argument
from fastrouter.options.guess_types import DEFAULT

log = logging.getLogger("fastrouter.config")


def add_setting(layer: dict[str, Setting], flag: Flag, value: Any) -> None:
    """Later words replace earlier ones; lists that are given again grow."""
    if flag.instead and value not in flag.silent:
        log.warning("%s has no effect: %s", flag.names[-1], flag.instead)
    if not flag.target:
        return
    if flag.target == "ready_made":
        for name, text in READY_MADE[flag.names[-1]].items():
            meant, _ = find_argument(name)
            layer.setdefault(meant.target, Setting(meant, convert(meant, text, name)))
        return
    if flag.target == "load_mode":
        is_mapped = value in ("auto", "mmap", "mmap+mlock")
        for name, is_on in (("mmap", is_mapped), ("mlock", "mlock" in value), ("direct-io", value == "dio")):
            layer[name.replace("-", "_")] = Setting(find_argument(f"--{name}")[0], is_on)
        return
    if flag.target == "direct_io" and value:
        layer["mmap"] = Setting(find_argument("--mmap")[0], False)
    if flag.target == "spec_default":
        flag, value = find_argument("--spec-type")[0], (DEFAULT,) if value else ()
    if flag.kind is Kind.FILES:
        flag = find_argument(f"{flag.names[-1]}-scaled")[0]  # both flags make one list, in the order in which they are given
    if flag.is_list and value and flag.target in layer:
        value = layer[flag.target].value + value
    layer[flag.target] = Setting(flag, value)


def merge(*layers: Layer) -> dict[str, Setting]:
    """Later layers replace earlier ones."""
    return {target: setting for layer in layers for target, setting in layer.items()}
