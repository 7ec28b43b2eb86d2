"""Actions of a user on the page, as functions: ask, choose a model, check the layout."""

import json
from typing import Any

TEXT = "#composer-text"
IDLE = "body:not(:has([aria-busy=true])):has(.answer)"
ANSWER = ".answer >> nth=-1"
CHAT = "**/v1/chat/completions"


def ask(page: Any, text: str | dict[str, Any], *, waits: bool = True) -> None:
    """A dictionary is a script for the fake worker."""
    page.fill(TEXT, text if isinstance(text, str) else json.dumps(text))
    page.press(TEXT, "Enter")
    if waits:
        page.wait_for_selector(IDLE)


def says(text: str) -> dict[str, Any]:
    """A script: an answer with this text, a few characters for each token."""
    return {"tokens": 1, "text": text}


def pick(page: Any, name: str) -> None:
    page.keyboard.press("Control+k")
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def let_take(page: Any, name: str, *kinds: str) -> None:
    """A model of a fake worker takes these: image, audio."""

    def change(route: Any) -> None:
        answer = route.fetch()
        listing = answer.json()
        for model in listing["data"]:
            if model["id"] == name:
                model["architecture"]["input_modalities"] = ["text", *kinds]
        route.fulfill(response=answer, json=listing)

    page.route("**/models", change)


def answer_done(page: Any) -> None:
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=sse(delta(content="done"), "[DONE]")))


def parts_sent(page: Any, text: str = "") -> list[dict[str, Any]]:
    """Of the last message of the request that Enter sends."""
    page.fill(TEXT, text)
    with page.expect_request(CHAT) as request:
        page.press(TEXT, "Enter")
    page.wait_for_selector(IDLE)
    content: list[dict[str, Any]] = request.value.post_data_json["messages"][-1]["content"]
    return content


def is_wider_than_window(page: Any) -> bool:
    found: bool = page.evaluate("[document.documentElement, document.querySelector('#main')].some((one) => one.scrollWidth > innerWidth)")
    return found


def sse(*events: Any) -> str:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}
