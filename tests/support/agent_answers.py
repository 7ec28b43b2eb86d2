"""Answers of three APIs, whole or streamed, in one form; and the earlier answers that a request repeats."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Call = tuple[str, Any]  # its name and its arguments


@dataclass
class Turn:
    """One answer."""

    thought: str = ""
    text: str = ""
    calls: list[Call] = field(default_factory=list)

    def __add__(self, other: "Turn") -> "Turn":
        return Turn(self.thought + other.thought, self.text + other.text, [*self.calls, *other.calls])


@dataclass
class Read:
    """An answer, and how much of its prompt was computed."""

    turn: Turn
    prompt: int
    cached: int

    @property
    def share(self) -> float:
        """The part of the prompt that was not in a cache."""
        return (self.prompt - self.cached) / self.prompt


def read(path: str, body: bytes, *, is_stream: bool) -> Read:
    return _READERS[path.partition("?")[0], is_stream](body)


def events_of(body: bytes) -> Iterator[dict[str, Any]]:
    for block in body.decode().split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line[6:])


# ---------------------------------------------------------------- chat completions


def _chat(body: bytes) -> Read:
    answer = json.loads(body)
    return _of_chat(answer["choices"][0]["message"], answer["usage"])


def _of_chat(message: dict[str, Any], usage: dict[str, Any]) -> Read:
    return Read(_turn_of_message(message), usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])


def _turn_of_message(message: dict[str, Any]) -> Turn:
    calls = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message.get("tool_calls") or []]
    return Turn(message.get("reasoning_content") or message.get("reasoning") or "", message.get("content") or "", calls)


def _chat_stream(body: bytes) -> Read:
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    usage: dict[str, Any] = {}
    for event in events_of(body):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            delta = choice["delta"]
            for name in ("content", "reasoning_content"):
                message[name] += delta.get(name) or ""
            for call in delta.get("tool_calls") or []:
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"function": {"name": call["function"]["name"], "arguments": ""}})
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"].get("arguments") or ""
    return _of_chat(message, usage)


# ---------------------------------------------------------------- messages


def _messages(body: bytes) -> Read:
    answer = json.loads(body)
    return _of_blocks(answer["content"], answer["usage"])


def _of_blocks(blocks: list[dict[str, Any]], usage: dict[str, Any]) -> Read:
    return Read(_turn_of_blocks(blocks), usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"])


def _turn_of_blocks(blocks: list[dict[str, Any]]) -> Turn:
    return Turn(
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"],
    )


def _messages_stream(body: bytes) -> Read:
    blocks: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    for event in events_of(body):
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            for name in {"text", "thinking"} & delta.keys():
                blocks[event["index"]][name] += delta[name]
            blocks[event["index"]]["json"] += delta.get("partial_json", "")
        elif event["type"] == "message_delta":
            usage = event["usage"]
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"] or "{}")
    return _of_blocks(blocks, usage)


# ---------------------------------------------------------------- responses


def _responses(body: bytes) -> Read:
    return _of_response(json.loads(body))


def _of_response(response: dict[str, Any]) -> Read:
    usage = response["usage"]
    return Read(_turn_of_items(response["output"]), usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"])


def _turn_of_items(items: list[dict[str, Any]]) -> Turn:
    turn = Turn()
    for item in items:
        if item["type"] == "reasoning":
            parts = item.get("content") or item["summary"]
            turn += Turn(thought="".join(part["text"] for part in parts))
        elif item["type"] == "message":
            turn += Turn(text="".join(part["text"] for part in item["content"]))
        elif item["type"] == "function_call":
            turn += Turn(calls=[(item["name"], json.loads(item["arguments"]))])
    return turn


def _responses_stream(body: bytes) -> Read:
    """From the events of the items, as Codex reads them; the last event repeats all."""
    *events, last = events_of(body)
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert last["type"] == "response.completed", last
    assert items == last["response"]["output"]
    return _of_response(last["response"])


_READERS = {
    ("/v1/chat/completions", False): _chat,
    ("/v1/chat/completions", True): _chat_stream,
    ("/v1/messages", False): _messages,
    ("/v1/messages", True): _messages_stream,
    ("/v1/responses", False): _responses,
    ("/v1/responses", True): _responses_stream,
}


# ---------------------------------------------------------------- what a request repeats


def repeated(body: dict[str, Any]) -> list[Turn]:
    """The earlier answers in a request, in their order."""
    if "input" in body:
        return list(_repeated_items(body["input"]))
    turns = []
    for message in body["messages"]:
        if message["role"] == "assistant":
            content = message.get("content")
            is_blocks = isinstance(content, list) and "tool_calls" not in message
            turns.append(_turn_of_blocks(content) if is_blocks else _turn_of_message(message))
    return turns


def _repeated_items(items: list[dict[str, Any]]) -> Iterator[Turn]:
    """One answer ends where something of another role follows."""
    turn = Turn()
    for item in items:
        is_answer = item["type"] in ("reasoning", "function_call") or (item["type"] == "message" and item["role"] == "assistant")
        if is_answer:
            turn += _turn_of_items([item])
        elif turn != Turn():
            yield turn
            turn = Turn()
    if turn != Turn():
        yield turn
