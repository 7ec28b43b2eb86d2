"""An MCP server that speaks JSON lines by itself and misbehaves as its first argument says. It has the tool `echo`.

crash: ends after each answer · burst: a notification and the answer in one write · garbage: no messages, before each answer ·
long: a line of 20 MB without an end, before each answer · mute: never answers a call · deaf: never answers at all · flood: notifications
without end, from the first call on · child: leaves a process that holds its pipes · empty: has no tools · huge: a result of 20 MB ·
wrong: a result that is none · twice: refuses the first call, with the code that the library has for lost connections ·
stubborn: does not end when its stdin ends · refuses: ends immediately, with a last word.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

KIND = sys.argv[1]
SCHEMA = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
TRANSIENT = {"code": -32000, "message": "ask again"}
calls: list[Any] = []
NOTICE = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hello"}}


def say(*messages: Any) -> None:
    os.write(1, b"".join((json.dumps(message) if not isinstance(message, str) else message).encode() + b"\n" for message in messages))


def result_of(method: str, params: dict[str, Any]) -> Any:
    if method == "initialize":
        return {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "odd", "version": "1"}}
    if method == "tools/list":
        return {"tools": [] if KIND == "empty" else [{"name": "echo", "description": "Say it again", "inputSchema": SCHEMA}]}
    if method == "tools/call":
        text = "x" * 20_000_000 if KIND == "huge" else params["arguments"]["message"]
        return {"content": "none"} if KIND == "wrong" else {"content": [{"type": "text", "text": text}]}
    return None


def answer(request: dict[str, Any]) -> None:
    method, is_call = request["method"], request["method"] == "tools/call"
    result = result_of(method, request.get("params") or {})
    body = {"result": result} if result is not None else {"error": {"code": -32601, "message": f"Method not found: {method}"}}
    if is_call:
        calls.append(request["id"])
        body = {"error": TRANSIENT} if KIND == "twice" and len(calls) == 1 else body
    reply = {"jsonrpc": "2.0", "id": request["id"], **body}
    if KIND == "deaf" or (KIND == "mute" and is_call):
        return
    if KIND == "garbage":
        say("nonsense", "{", '{"jsonrpc": "2.0"}', "[1]", "null", "\x00\x01", {"jsonrpc": "2.0", "id": 999_999, "result": {}})
    if KIND == "long":
        os.write(1, b"x" * 20_000_000 + b"\n")
    if KIND == "burst":
        say(NOTICE, reply)
    else:
        say(reply)
    if KIND == "crash" and is_call:
        sys.exit(3)
    while KIND == "flood" and is_call:
        say(NOTICE)


def main() -> None:
    if KIND == "refuses":
        sys.exit("the notes are locked")
    if KIND == "child":
        subprocess.Popen(["sleep", "600"])
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            answer(request)
    while KIND == "stubborn":
        time.sleep(1)


if __name__ == "__main__":
    main()
