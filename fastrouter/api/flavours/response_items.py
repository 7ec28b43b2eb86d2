"""Items of a response's output: their final form, and the events in which they grow. Never imports: api.flavours.responses.

Invariant: between an item's `begin` and its `end` no other item has events. The deltas of an item together equal its done events.
"""

import os
from abc import ABC, abstractmethod
from typing import Any

import orjson

from fastrouter._core import EventLog
from fastrouter.api.requests.response_items import seal
from fastrouter.api.requests.response_tools import Tool, call_item
from fastrouter.api.serving.flavour import Template
from fastrouter.http.sse import event_parts, json_event
from fastrouter.ipc.records import Entry

COMPLETED, INCOMPLETE, IN_PROGRESS = "completed", "incomplete", "in_progress"
_CALL_PREFIXES = {"function": "fc", "custom": "ctc", "local_shell": "lsh"}

Item = dict[str, Any]


def new_id(prefix: str) -> str:
    return f"{prefix}_{os.urandom(16).hex()}"


# ---------------------------------------------------------------- final items


def message_item(item_id: str, text: str, probabilities: list[Entry], status: str) -> Item:
    return {"type": "message", "id": item_id, "role": "assistant", "status": status, "content": [text_part(text, probabilities)]}


def text_part(text: str, probabilities: list[Entry]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": probabilities}


def reasoning_item(item_id: str, text: str, status: str, *, is_summary: bool, is_sealed: bool) -> Item:
    """A local model's summary is the thought itself."""
    summary = [{"type": "summary_text", "text": text}] if is_summary else []
    content = {} if is_summary else {"content": [{"type": "reasoning_text", "text": text}]}
    sealed = {"encrypted_content": seal(text)} if is_sealed else {}
    return {"type": "reasoning", "id": item_id, "summary": summary, **content, **sealed, "status": status}


def call_ids(tool: Tool, call_id: str) -> dict[str, str]:
    return {"id": new_id(_CALL_PREFIXES[tool.kind]), "call_id": call_id or new_id("call")}


# ---------------------------------------------------------------- while they grow


class Events:
    """The numbered events of one stream."""

    def __init__(self) -> None:
        self.log = EventLog()

    def make(self, kind: str, **fields: Any) -> bytes:
        return json_event({"type": kind, "sequence_number": self.log.take_number(), **fields}, kind.encode())

    def around_text(self, kind: str, **fields: Any) -> Template:
        """An event whose `delta` is a text that comes later."""
        before = orjson.dumps({"type": kind, **fields})[:-1] + b',"delta":"'
        head, end = event_parts(before, b"}", kind.encode())
        return Template(head, b'","sequence_number":', end, self.log)


class OpenItem(ABC):
    """An item that has not ended."""

    def __init__(self, events: Events, index: int, prefix: str) -> None:
        self.events = events
        self.index = index  # index in the output
        self.id = new_id(prefix)

    @abstractmethod
    def begin(self) -> bytes: ...
    @abstractmethod
    def end(self, status: str) -> tuple[bytes, Item]:
        """The item's last events, and the final item."""

    def added(self, item: Item) -> bytes:
        return self.events.make("response.output_item.added", output_index=self.index, item=item)

    def done(self, item: Item) -> bytes:
        return self.events.make("response.output_item.done", output_index=self.index, item=item)

    def make(self, kind: str, **fields: Any) -> bytes:
        """An event about a part of the item."""
        return self.events.make(kind, item_id=self.id, output_index=self.index, **fields)


class OpenText(OpenItem):
    """An item of one text. The log keeps the text, also of events that were not made here."""

    delta_kind = ""

    @abstractmethod
    def where(self) -> dict[str, Any]:
        """The fields of its deltas in addition to their text."""

    def add(self, text: str, probabilities: list[Entry], more: dict[str, Any]) -> bytes:
        """`more`: fields of llama-server."""
        self.events.log.keep(text.encode())
        return self.make(self.delta_kind, **self.where(), delta=text, **more)

    def template(self) -> Template:
        return self.events.around_text(self.delta_kind, item_id=self.id, output_index=self.index, **self.where())

    def take_text(self) -> str:
        return self.events.log.take_text().decode("utf-8", "replace")


class OpenMessage(OpenText):
    delta_kind = "response.output_text.delta"

    def __init__(self, events: Events, index: int) -> None:
        super().__init__(events, index, "msg")
        self._probabilities: list[Entry] = []

    def where(self) -> dict[str, Any]:
        return {"content_index": 0, "logprobs": []}

    def begin(self) -> bytes:
        added = self.added({**message_item(self.id, "", [], IN_PROGRESS), "content": []})
        return added + self.make("response.content_part.added", content_index=0, part=text_part("", []))

    def add(self, text: str, probabilities: list[Entry], more: dict[str, Any]) -> bytes:
        if not probabilities:
            return super().add(text, probabilities, more)
        self._probabilities += probabilities
        self.events.log.keep(text.encode())
        return self.make(self.delta_kind, content_index=0, logprobs=probabilities, delta=text, **more)

    def end(self, status: str) -> tuple[bytes, Item]:
        text = self.take_text()
        item = message_item(self.id, text, self._probabilities, status)
        end = self.make("response.output_text.done", content_index=0, text=text, logprobs=self._probabilities)
        part = self.make("response.content_part.done", content_index=0, part=item["content"][0])
        return end + part + self.done(item), item


class OpenReasoning(OpenText):
    """A thought. `is_summary`: it is shown as a summary."""

    def __init__(self, events: Events, index: int, *, is_summary: bool, is_sealed: bool) -> None:
        super().__init__(events, index, "rs")
        self._is_summary = is_summary
        self._is_sealed = is_sealed
        self.delta_kind = "response.reasoning_summary_text.delta" if is_summary else "response.reasoning_text.delta"

    def where(self) -> dict[str, Any]:
        return {"summary_index": 0} if self._is_summary else {"content_index": 0}

    def begin(self) -> bytes:
        added = self.added({"type": "reasoning", "id": self.id, "summary": [], "status": IN_PROGRESS})
        return added + self._part("added", "")

    def _part(self, what: str, text: str) -> bytes:
        if self._is_summary:
            return self.make(f"response.reasoning_summary_part.{what}", **self.where(), part={"type": "summary_text", "text": text})
        return self.make(f"response.content_part.{what}", **self.where(), part={"type": "reasoning_text", "text": text})

    def end(self, status: str) -> tuple[bytes, Item]:
        text = self.take_text()
        item = reasoning_item(self.id, text, status, is_summary=self._is_summary, is_sealed=self._is_sealed)
        end = self.make(self.delta_kind.replace(".delta", ".done"), **self.where(), text=text)
        return end + self._part("done", text) + self.done(item), item


class OpenCall(OpenItem):
    """A call. A custom tool's input is known only when its arguments are whole, because it is inside them."""

    def __init__(self, events: Events, index: int, tool: Tool, call_id: str, number: int) -> None:
        super().__init__(events, index, _CALL_PREFIXES[tool.kind])
        self.number = number  # index in the calls of the answer
        self._tool = tool
        self._ids = {**call_ids(tool, call_id), "id": self.id}
        self._pieces: list[str] = []

    def begin(self) -> bytes:
        empty = call_item(self._tool, self._ids, "", IN_PROGRESS)
        return self.added(empty)

    def add(self, arguments: str) -> bytes:
        self._pieces.append(arguments)
        if self._tool.kind != "function" or not arguments:
            return b""
        return self.make("response.function_call_arguments.delta", delta=arguments)

    def end(self, status: str) -> tuple[bytes, Item]:
        arguments = "".join(self._pieces)
        item = call_item(self._tool, self._ids, arguments, status)
        end = b""
        if self._tool.kind == "function":
            end = self.make("response.function_call_arguments.done", name=self._tool.name, arguments=arguments)
        elif self._tool.kind == "custom":
            end = self.make("response.custom_tool_call_input.delta", delta=item["input"])
            end += self.make("response.custom_tool_call_input.done", input=item["input"])
        return end + self.done(item), item
