"""What one client may not do to another, and what a mistake of ours costs."""

import http.client
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import StartRouter
from scripted_models import make_scripted

from fastrouter.api.requests.bodies import MAX_DEPTH
from fastrouter.api.serving.flavour import ToolCall

TEMPLATE = "{# <think> </think> #}{% for message in messages %}{{ message.content }}{% endfor %}"
SCRIPTS = {"one": "<think>on and on it goes. What if? No! "}


def test_a_key_ends_only_thoughts_of_its_own_chats(router: StartRouter, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    make_scripted(tmp_path / "models" / "agent.gguf", SCRIPTS, endless=("one",), chat_template=TEMPLATE, n_ctx=1 << 16)
    (tmp_path / "keys").write_text("admin\nann models=agent\nbob models=agent\n")
    server = router("-c", "65536", "--temp", "0", "--api-key-file", str(tmp_path / "keys"), models_dir=tmp_path / "models", can_wait=False)

    def end(answer_id: str, key: str) -> bool:
        body = {"model": "agent", "id": answer_id, "action": "reasoning_end"}
        success: bool = server.post("/v1/chat/completions/control", body, {"Authorization": f"Bearer {key}"}).json["success"]
        return success

    for key, others, ender in (("ann", ("bob",), "ann"), ("ann", (), "admin"), ("admin", ("ann", "bob"), "admin")):
        body: dict[str, Any] = {
            "model": "agent",
            "stream": True,
            "reasoning_control": True,
            "messages": [{"role": "user", "content": "one"}],
        }
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        connection.request("POST", "/v1/chat/completions", orjson.dumps(body), headers)
        response = connection.getresponse()
        event = b""
        while b"\n\n" not in event:
            event += response.read1(1 << 16)
        answer_id = json.loads(event.partition(b"\n\n")[0].removeprefix(b"data: "))["id"]
        assert [end(answer_id, other) for other in others] == [False] * len(others)
        assert end(answer_id, ender)
        response.close()
        connection.close()


@pytest.mark.parametrize("depth", [2, MAX_DEPTH // 2, MAX_DEPTH, 300, 900])
def test_arguments_of_a_call_can_be_written_again(depth: int) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    found = ToolCall("id", "f", text).arguments_object()
    assert orjson.loads(orjson.dumps({"content": [{"input": found}]})) == {
        "content": [{"input": json.loads(text) if depth <= MAX_DEPTH else {}}]
    }
