"""A worker process without a router: messages in, messages and ring records out."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import uvloop

from fastrouter._core import LAST, TextCollector
from fastrouter.ipc.messages import Generate, Submit
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.process import WorkerProcess, adopt_orphans

OPTIONS = LoadOptions(ctx_size=512, parallel=2)


class Answer(TextCollector):
    def __init__(self) -> None:
        super().__init__()
        self.end: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        if flags & LAST:
            self.end.set_result(orjson.loads(payload))

    def fail(self, error: Exception) -> None:
        self.end.set_exception(error)


class Talk:
    """One worker and its messages."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.messages: list[Any] = []
        self.ended = asyncio.Event()
        process.on_message = self.messages.append
        process.on_exit = self.ended.set

    async def hear(self, kind: type[Any]) -> Any:
        while not (found := [message for message in self.messages if isinstance(message, kind)]):
            await asyncio.sleep(0.005)
        self.messages.remove(found[0])
        return found[0]

    async def generate(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        answer = Answer()
        request_id = self.process.ring.attach(answer)
        self.process.send(Submit(request_id, Generate(**{"max_tokens": 8, "sampling": {"temperature": 0.0}, **fields})))
        return (await answer.end and answer.text().decode()), answer.end.result()


def run(scenario: Callable[[ForkServer], Coroutine[Any, Any, None]], command: list[str] | None = None) -> None:
    async def limited() -> None:
        adopt_orphans()
        fork_server = ForkServer(command)
        fork_server.start()
        try:
            await asyncio.wait_for(scenario(fork_server), 60)
        finally:
            fork_server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


async def end(talk: Talk) -> None:
    talk.process.kill()
    await talk.ended.wait()
