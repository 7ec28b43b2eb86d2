"""Whether a model that is foreseen may be loaded before a request comes. Pure.

It gets only room that nothing else uses: no model leaves for a guess, and a guess leaves first when a request needs its room.
"""

from collections.abc import Sequence

from fastrouter.supervisor.decide.need import Need
from fastrouter.supervisor.decide.planner import Limits, Resident, Waiting, plan
from fastrouter.supervisor.decide.state import State

MAX_UNUSED = 2  # guesses in memory that no request has asked for yet


def may_load_ahead(model_id: str, need: Need, residents: Sequence[Resident], limits: Limits, now: float) -> bool:
    """`limits` without memory that is only lent. One load at a time, and it begins only while no model answers."""
    if (
        any(resident.state is State.LOADING or resident.num_leases for resident in residents)
        or sum(resident.is_ahead for resident in residents) >= MAX_UNUSED
    ):
        return False
    decided = plan([Waiting(model_id, now, need)], residents, limits, now)
    return decided.start == [model_id] and not decided.evict
