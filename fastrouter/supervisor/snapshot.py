"""What the pure decisions see of the entries: residents and waiting models, memory that is held, idle models. Reads only."""

from collections.abc import Iterable

from fastrouter.supervisor.decide.idle import Idle
from fastrouter.supervisor.decide.planner import Resident, Waiting
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.managed_model import ManagedModel
from fastrouter.supervisor.memory.limits import Held
from fastrouter.supervisor.memory.measurements import Measures
from fastrouter.supervisor.queue import Queue


def waiting(queue: Queue, measures: Measures) -> list[Waiting]:
    return [
        Waiting(
            entry.spec.id,
            entry.since,
            measures.need(entry.spec),
            any(waiter.can_start for waiter in entry.waiters),
            max(waiter.priority for waiter in entry.waiters),
            measures.expected_load_s(entry.spec),
        )
        for entry in queue.entries()
    ]


def residents(entries: Iterable[ManagedModel], measures: Measures) -> list[Resident]:
    found = []
    for entry in entries:
        instance, spec = entry.instance, entry.spec
        if instance is not None:
            found.append(
                Resident(
                    spec.id,
                    instance.state,
                    instance.num_leases,
                    instance.last_used,
                    instance.need,
                    entry.is_pinned,
                    instance.ready_at + spec.min_resident_s,
                    measures.expected_load_s(spec),
                )
            )
        elif entry.is_asleep:
            found.append(Resident(spec.id, State.SLEEPING, 0, entry.last_used))
    return found


def held(entries: Iterable[ManagedModel]) -> list[Held]:
    """Memory of the workers. Mapped weights count as available (memory/limits.py); prompt caches give way (memory_ledger.py)."""
    instances = [entry.instance for entry in entries if entry.instance is not None]
    return [Held(instance.process.pid, instance.heap_bytes + instance.prompt_cache_bytes) for instance in instances]


def idle(entries: Iterable[ManagedModel]) -> list[Idle]:
    found = []
    for entry in entries:
        instance = entry.instance
        if entry.is_pinned or entry.waiters:
            continue
        if instance is not None and instance.state is State.LOADED and not instance.num_leases:
            found.append(Idle(entry.spec.id, instance.last_used, entry.ttl_s, entry.spec.sleep_idle_s))
        elif instance is None and entry.is_asleep:
            found.append(Idle(entry.spec.id, entry.last_used, entry.ttl_s, None))
    return found


def has_idle_rule(entry: ManagedModel) -> bool:
    return not entry.is_pinned and (entry.ttl_s is not None or entry.spec.sleep_idle_s is not None)
