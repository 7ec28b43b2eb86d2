"""Which model is likely to come next, and how much its load will allocate: a spare can prepare this. Pure; a wrong answer costs nothing."""

from collections.abc import Iterable, Sequence

from fastrouter.ipc.messages import Prime
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.managed_model import ManagedModel
from fastrouter.supervisor.memory.estimate import heap_bytes
from fastrouter.supervisor.remedies import NONE, Remedy

LEAST_HEAP_BYTES = 32 << 20  # this is touched in a few milliseconds, and is enough for a small model
OPEN_SHARE = 16  # a model is opened early if it takes at most this part of the free memory


def next_model(models: Iterable[ManagedModel], free_bytes: int, remedy: Remedy = NONE, foreseen: Sequence[ManagedModel] = ()) -> Prime:
    """A model that is foreseen, else the one that left last: it is the most likely to come back, because agents take turns. The memory is
    that of the largest so far. `foreseen`: none of them is loaded; the most likely one first."""
    used = [model for model in models if (model.last_used or model.instance is not None) and model.error is None and not model.has_expired]
    away = [model for model in used if model.instance is None]
    heap = max((heap_bytes(model.spec) for model in (*used, *foreseen[:1])), default=0)
    heap = max(heap, LEAST_HEAP_BYTES)
    likely = next(iter(foreseen), None) or max(away, key=lambda model: model.last_used, default=None)
    if likely is None or _is_bound(likely.spec.options) or likely.spec.size_bytes * OPEN_SHARE > free_bytes:
        return Prime(heap, None, LoadOptions())
    remedy = remedy.joined(likely.remedy)
    return Prime(heap, likely.spec.path, likely.spec.options, remedy.safe_mode, remedy.num_dropped)


def _is_bound(options: LoadOptions) -> bool:
    """The process of its spare would stay bound to memory nodes, or hold connections to RPC servers."""
    return options.numa is not None or bool(options.rpc)
