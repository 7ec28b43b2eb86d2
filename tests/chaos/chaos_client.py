"""A client that checks each answer to its last byte, and what it counts."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 120.0  # an answer that is not over by then is lost
KEPT, REFUSED, BROKEN, LOST = "kept", "refused", "broken", "lost"


@dataclass
class Answer:
    """How a stream ended. kept: complete, and the text is right. refused: an error status instead of a stream. broken: an explicit error
    after a right beginning. lost: anything else."""

    kind: str = LOST
    why: str = ""
    text: str = ""
    status: int = 0
    ended_at: float = 0.0
    longest_gap_s: float = 0.0  # between two texts
    is_cut: bool = False  # the connection ended in the middle of the body
    is_hung: bool = False  # it was not over in time


@dataclass
class Counts:
    """What one row of the matrix has seen."""

    row: str
    what: str
    faults: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)  # by the kind of their end
    calm: Counter[str] = field(default_factory=Counter)  # streams on models without a fault
    recovery_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, answer: Answer, *, is_calm: bool = False) -> Answer:
        (self.calm if is_calm else self.streams)[answer.kind] += 1
        if answer.kind == LOST or (is_calm and answer.kind != KEPT):
            self.problems.append(f"{'a calm ' if is_calm else ''}stream is {answer.kind}: {answer.why}")
        return answer

    def expect(self, is_so: Any, problem: str) -> None:
        if not is_so:
            self.problems.append(problem)

    @property
    def num_lost(self) -> int:
        return self.streams[LOST] + self.calm[LOST]

    def __str__(self) -> str:
        parts = [f"{self.row}: {sum(self.faults.values())} faults ({_listed(self.faults)})"]
        parts.append(f"{sum(self.streams.values())} streams ({_listed(self.streams)}), {self.num_lost} lost")
        if self.calm:
            parts.append(f"{sum(self.calm.values())} on other models ({_listed(self.calm)})")
        if self.recovery_s:
            parts.append(f"recovery p50 {milliseconds(self.recovery_s, 50)}, p99 {milliseconds(self.recovery_s, 99)}")
        if self.health_s:
            parts.append(f"/health p99 {milliseconds(self.health_s, 99)}")
        return ", ".join([*parts, *(f"{name} {value}" for name, value in self.notes.items())])


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def milliseconds(values: list[float], percent: float) -> str:
    return f"{1e3 * percentile(values, percent):.1f} ms" if values else ""


# ---------------------------------------------------------------- one stream


def body_of(model: str, script: dict[str, Any]) -> dict[str, Any]:
    """For a fake worker, which does what the script says."""
    return {"model": model, "messages": [{"role": "user", "content": json.dumps(script)}], "stream": True}


def text_of_script(script: dict[str, Any]) -> str:
    return "".join(script.get("text") or f"t{index} " for index in range(script["tokens"]))


async def ask(
    port: int,
    body: dict[str, Any],
    expected: str,
    on_text: Callable[[int], None] = lambda count: None,
    path: str = "/v1/chat/completions",
    *,
    patience_s: float = PATIENCE_S,
    pace_s: float = 0.0,
) -> Answer:
    """One stream, checked. `on_text` gets the number of events with text so far. `pace_s`: a pause after each piece that it reads."""
    loop = asyncio.get_running_loop()
    answer = Answer()
    reader = Events(on_text)
    try:
        async with asyncio.timeout(patience_s):
            await _read(port, path, body, reader, pace_s)
    except TimeoutError:
        answer.why, answer.is_hung = f"not over after {patience_s:g} s", True
        return answer
    except (OSError, asyncio.IncompleteReadError) as error:
        reader.is_cut = True
        answer.why = f"{type(error).__name__}: {error}"
    answer.ended_at, answer.text, answer.status = loop.time(), reader.text, reader.status
    answer.longest_gap_s, answer.is_cut = reader.longest_gap_s, reader.is_cut
    answer.kind, answer.why = judge(reader, expected, answer.why)
    return answer


def judge(reader: "Events", expected: str, why: str) -> tuple[str, str]:
    if reader.status and reader.status != 200:
        return (REFUSED, reader.error) if reader.error else (LOST, f"status {reader.status} without an error")
    if reader.is_done:
        if reader.error:
            return LOST, "an error and [DONE]"
        return (KEPT, "") if reader.text == expected else (LOST, f"another text: {reader.text[:200]!r} instead of {expected[:200]!r}")
    if reader.error:
        is_right = expected.startswith(reader.text)
        return (BROKEN, reader.error) if is_right else (LOST, f"an error after a wrong text: {reader.text[:200]!r}")
    return LOST, why or "neither [DONE] nor an error"


async def _read(port: int, path: str, body: dict[str, Any], events: "Events", pace_s: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"".join(request_of(path, body)))
        answered = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        events.status = int(answered.split()[1])
        if events.status != 200:
            events.take_refusal(await reader.read(-1))
        elif "transfer-encoding: chunked" in answered:
            while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                events.feed((await reader.readexactly(size + 2))[:-2])
                await asyncio.sleep(pace_s)
        else:
            while piece := await reader.read(1 << 16):
                events.feed(piece)
    finally:
        await close(writer)


def request_of(path: str, body: dict[str, Any]) -> tuple[bytes, bytes]:
    """(head, body)"""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n", data


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Events:
    """Server-sent events of a chat completion."""

    def __init__(self, on_text: Callable[[int], None]) -> None:
        self.status = 0
        self.text = ""
        self.error = ""
        self.is_done = False
        self.is_cut = False
        self.longest_gap_s = 0.0
        self._on_text = on_text
        self._num_texts = 0
        self._last_at: float | None = None
        self._waiting = b""

    def take_refusal(self, body: bytes) -> None:
        try:
            self.error = str(json.loads(body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            self.error = ""

    def feed(self, data: bytes) -> None:
        *blocks, self._waiting = (self._waiting + data).split(b"\n\n")
        for block in blocks:
            for line in block.split(b"\n"):
                if line == b"data: [DONE]":
                    self.is_done = True
                elif line.startswith(b"data: "):
                    self._take(json.loads(line[6:]))

    def _take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = str(event["error"].get("message", event["error"]))
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content") or choice.get("text") or ""
            if text:
                self._note_text(text)

    def _note_text(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._last_at is not None:
            self.longest_gap_s = max(self.longest_gap_s, now - self._last_at)
        self._last_at = now
        self.text += text
        self._num_texts += 1
        self._on_text(self._num_texts)
