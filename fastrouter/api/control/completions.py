"""POST /v1/chat/completions/control: a client changes its chat while the answer is generated. As in llama-server."""

from fastrouter._core import Request
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import invalid, string
from fastrouter.api.serving.start import Generator
from fastrouter.http.api_keys import Caller
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json

_END_THOUGHT = "reasoning_end"


class ChatControl:
    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def act(self, request: Request, exchange: Exchange) -> Response:
        """A chat that is over is not an error: the client could not know it."""
        body = parse_object(request)
        if not string("id", body.get("id", "")):
            raise invalid("id", "is missing: it is the id in the chat's events")
        if body.get("action") != _END_THOUGHT:
            raise invalid("action", f'must be "{_END_THOUGHT}"')
        problem = await self._end_thought(body["id"], request.caller)
        return encode_json({"success": False, "message": problem} if problem else {"success": True})

    async def _end_thought(self, answer_id: str, caller: Caller | None) -> str:
        """Why not; empty: it is done. A key ends only thoughts of its own chats; one that may do everything, all."""
        answer = self._generator.answer(answer_id)
        if answer is None or (caller is not None and answer.ask.generates[0].caller != id(caller)):
            return "no active completion for this id"
        if not any(generate.reasoning_control for generate in answer.ask.generates):
            return "reasoning control not enabled for this completion"
        return "" if await answer.end_thought() else "no thought is open"
