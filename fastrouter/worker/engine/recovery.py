"""What follows a failed decode: room is made and the step is repeated, or its sequences end.

It decides and acts; it shares the engine's lists of running sequences. Invariant: the oldest sequence never gives way to a younger one,
so it always continues; after every call the slots hold what the KV cache holds.
"""

from collections.abc import Callable

from fastrouter.errors import FastrouterError
from fastrouter.worker.engine.admission import Admission
from fastrouter.worker.engine.answers import Answers
from fastrouter.worker.kv.slots import Slot
from fastrouter.worker.llama.context import Context
from fastrouter.worker.schedule.scheduler import Step
from fastrouter.worker.sequence import Running
from fastrouter.worker.speculation.speculation import Speculation
from fastrouter.worker.text.prompts import context_exceeded

NO_ROOM, ABORTED = 1, 2  # results of llama_decode


class Recovery:
    """For one engine. `end_with`: forget a request and tell its client why."""

    def __init__(
        self,
        context: Context,
        admission: Admission,
        speculation: Speculation,
        answers: Answers,
        running: tuple[list[Running], list[Running]],
        end_with: Callable[[int, FastrouterError | None], None],
    ) -> None:
        self._context = context
        self._admission = admission
        self._speculation = speculation
        self._answers = answers
        self._running = running
        self._end_with = end_with

    def recover(self, code: int, step: Step) -> None:
        """Acts on the result of llama_decode for this step."""
        if code == ABORTED:
            self._forget_cancelled(step.running)
        elif code != NO_ROOM:
            self._fail(step.running, FastrouterError(f"llama_decode failed with code {code}"))
        elif not self._speculation.drop(step.decoding):
            self._make_room()

    def _make_room(self) -> None:
        """Idle slots go first, then the youngest sequence waits; the last one that is left has filled the whole cache."""
        prefixes, idle = self._admission.prefixes, self._admission.slots.to_purge()
        newest = max((running for group in self._running for running in group), key=lambda running: running.sequence.number)
        if idle is not None:
            prefixes.purge(idle)
        elif sum(map(len, self._running)) > 1:
            self._remove(newest)
            self._admission.postpone(newest)
        elif newest.sequence.has_begun:
            self._answers.end(newest, "limit", truncated=True)
            self._remove(newest)
            self._admission.retire(newest, keeps_kv=False)
        else:
            self._fail([newest], context_exceeded(len(newest.sequence.prompt), self._context.n_ctx))

    def _forget_cancelled(self, group: list[Running]) -> None:
        """The client left while its prompt was computed. What the step added to the KV is removed; if that part is unknown, all is
        removed."""
        for slot in [running.slot for running in group]:
            can_forget_end = self._context.can_forget_end and not self._is_inside(slot)
            if not (can_forget_end and self._context.remove(slot.id, slot.next_pos)):
                self._admission.prefixes.forget(slot)
        for request in {running.sequence.request for running in group}:
            self._end_with(request.id, None)

    def _is_inside(self, slot: Slot) -> bool:
        """It may hold a part of a picture, and the parts of that have the same position."""
        return self._context.num_position_parts > 1 and bool(slot.tokens) and slot.tokens[-1] < 0

    def _fail(self, failed: list[Running], error: FastrouterError) -> None:
        """The KV of these sequences is unknown now, so it is removed."""
        for running in failed:
            self._remove(running)
            self._admission.retire(running, keeps_kv=False)
        for request in {running.sequence.request for running in failed}:
            self._end_with(request.id, error)  # its other choices may still be waiting

    def _remove(self, running: Running) -> None:
        for group in self._running:
            if running in group:
                group.remove(running)
