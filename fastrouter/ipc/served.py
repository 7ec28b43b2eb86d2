"""What `fastrouter rpc-worker` tells each of its processes, and the lines in which llama.cpp's RPC server says that it has a client."""

import json
from dataclasses import asdict, dataclass, field

TOOK_CLIENT, LOST_CLIENT = "Accepted client connection", "Client connection closed"


@dataclass(frozen=True, slots=True)
class Served:
    listener: int  # the descriptor of the socket that all processes share
    parent_pid: int
    threads: int
    devices: list[str] = field(default_factory=list)  # none: all GPUs, or the CPU
    cache: str | None = None  # the folder of kept tensors
    verbosity: int = 0

    def to_argument(self) -> str:
        return json.dumps(asdict(self))


def served_of(argument: str) -> Served:
    return Served(**json.loads(argument))
