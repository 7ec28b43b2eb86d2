"""Which layers of a model llama.cpp puts on which device, from its options and what is known of the devices. Pure.

It follows llama_model_base::load_tensors of the pinned release. It knows nothing of --override-tensor and --n-cpu-ffn, so what these
move is counted where it would be without them until a load has shown more.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from fastrouter.options.load import LoadOptions

HOST = ""  # the place of a layer that is on no device
_RPC_NAME = re.compile(r"RPC(\d+)")


def devices_of(options: LoadOptions, known: Mapping[str, int]) -> list[str]:
    """The devices that a model may use, in llama.cpp's order. `known`: their memory. A server that is not known counts as one device."""
    of_servers = [device for endpoint in options.rpc for device in _devices_of_server(endpoint, known)]
    usable = of_servers + [device for device in known if not is_remote(device)]
    if options.devices is None:
        return [usable[options.main_gpu]] if options.split_mode == "none" and options.main_gpu < len(usable) else usable
    return [device for name in options.devices if (device := _of_name(name, of_servers, known)) is not None]


def is_remote(device: str) -> bool:
    return device.startswith("RPC") and "[" in device


def _devices_of_server(endpoint: str, known: Mapping[str, int]) -> list[str]:
    return [device for device in known if is_remote(device) and device.endswith(f"[{endpoint}]")] or [f"RPC0[{endpoint}]"]


def _of_name(name: str, of_servers: Sequence[str], known: Mapping[str, int]) -> str | None:
    """None: it is not known."""
    if found := _RPC_NAME.fullmatch(name):
        return of_servers[int(found[1])] if int(found[1]) < len(of_servers) else None
    return name if name in known else None


def places_of(options: LoadOptions, num_layers: int, known: Mapping[str, int]) -> list[str]:
    """Of each layer and, after them, of the output: a device, or HOST."""
    devices = devices_of(options, known)
    if not devices:
        return [HOST] * (num_layers + 1)
    num_moved = min(num_layers + 1, options.gpu_layers if options.gpu_layers >= 0 else num_layers + 1)
    first = num_layers + 1 - num_moved
    ends = list(accumulate(_shares(options, devices, known)))
    ends = [end / ends[-1] for end in ends]
    numbers = [bisect_right(ends, (layer - first) / num_moved) for layer in range(first, num_layers + 1)]
    return [HOST] * first + [devices[min(number, len(devices) - 1)] for number in numbers]


def _shares(options: LoadOptions, devices: Sequence[str], known: Mapping[str, int]) -> list[float]:
    asked = [*options.tensor_split[: len(devices)], *[0.0] * (len(devices) - len(options.tensor_split))]
    if any(asked):
        return asked
    return [float(known.get(device) or max(known.values(), default=1) or 1) for device in devices]
