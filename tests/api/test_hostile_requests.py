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


PICTURE = "A" * (4 << 20)
URL = f"data:image/png;base64,{PICTURE}"
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE}
PICTURES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}]},
    "/v1/messages": {"messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}], "max_tokens": 4},
    "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]},
    "/api/chat": {"messages": [{"role": "user", "content": "", "images": [PICTURE]}]},
}


def test_a_large_picture_is_refused_in_few_words(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    for path, body in PICTURES.items():
        answer = server.post(path, {"model": "tiny0", **body})
        assert answer.status == 400, path
        assert b"image input is not supported" in answer.body
        assert len(answer.body) < 400
