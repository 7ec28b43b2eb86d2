"""The input of the pure decisions: residents, waiting models, memory in use, idle models. Only reads."""

from collections.abc import Iterable

from fastrouter.supervisor.decide.idle import Idle
from fastrouter.supervisor.decide.planner import Resident, Waiting
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.managed_model import ManagedModel
from fastrouter.supervisor.memory.limits import Held
from fastrouter.supervisor.memory.measurements import Measures
from fastrouter.supervisor.queue import Queue


def waiting(queue: Queue, measures: Measures, now: float) -> list[Waiting]:
    """A model whose workers died in a row must not start for a while."""
    return [
        Waiting(
            model.spec.id,
            model.since,
            measures.need(model.spec),
            now >= model.start_at and any(waiter.can_start for waiter in model.waiters),
            max(waiter.priority for waiter in model.waiters),
            measures.expected_load_s(model.spec),
        )
        for model in queue.models()
    ]


def residents(models: Iterable[ManagedModel], measures: Measures) -> list[Resident]:
    found = []
    for model in models:
        instance, spec = model.instance, model.spec
        if instance is not None:
            found.append(
                Resident(
                    spec.id,
                    instance.state,
                    instance.num_leases,
                    instance.last_used,
                    instance.need,
                    model.is_pinned,
                    0.0 if instance.is_ahead else instance.ready_at + spec.min_resident_s,
                    measures.expected_load_s(spec),
                    instance.is_ahead,
                )
            )
        elif model.is_asleep:
            found.append(Resident(spec.id, None, 0, model.last_used))
    return found


def held(models: Iterable[ManagedModel]) -> list[Held]:
    """Memory of the workers. Mapped weights count as available (memory/limits.py); prompt caches can be given back (memory_ledger.py)."""
    instances = [model.instance for model in models if model.instance is not None]
    return [Held(instance.process.pid, instance.heap_bytes + instance.prompt_cache_bytes) for instance in instances]


def idle(models: Iterable[ManagedModel]) -> list[Idle]:
    found = []
    for model in models:
        instance = model.instance
        if model.is_pinned or model.waiters:
            continue
        if instance is not None and instance.state is State.LOADED and not instance.num_leases:
            found.append(Idle(model.spec.id, instance.last_used, model.ttl_s, model.spec.sleep_idle_s))
        elif instance is None and model.is_asleep:
            found.append(Idle(model.spec.id, model.last_used, model.ttl_s, None))
    return found


def has_idle_rule(model: ManagedModel) -> bool:
    return not model.is_pinned and (model.ttl_s is not None or model.spec.sleep_idle_s is not None)
