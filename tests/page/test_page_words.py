"""The page in plain words: the names of buttons and settings, the first model, explanations of failures, what is folded."""

import json
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, Tab, violations
from chat_page import CHAT, IDLE, TEXT, ask, delta, is_wider_than_window, pick, says, sse
from conftest import Router, StartRouter, eventually
from tiny_encoders import make_bert
from tiny_models import make_llama

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
FOCUSED_LABEL = "document.activeElement.getAttribute('aria-label')"
DAMAGED = "tensor 'blk.0.attn_q.weight' not found"
FAILURES = {  # the loader's message: a word of its explanation, the main button
    DAMAGED: ("damaged", "Choose another model"),
    "general.alignment ends at byte 900, the file at byte 450: it is incomplete": ("damaged", "Choose another model"),
    "unknown model architecture: 'new'": ("newer version", "Choose another model"),
    "unable to allocate CPU buffer of 64 GiB": ("not enough free memory", "Models and memory"),
    "LoRA adapter /x.gguf: wrong shape": ("adapter", "Choose another model"),
    "it was moody": ("it was moody", "Try again"),
}


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("words")
    scripts = {"calm": {}, **{f"bad{at}": {"fail": cause, "lines": ["a line of its log"]} for at, cause in enumerate(FAILURES)}}
    for name, script in scripts.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return module_router(models_dir=folder, is_fake=True)


@pytest.fixture(scope="module")
def mixed(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """In the order of names: an embedding model, a model without a template, a broken one, and last one that was made for chats."""
    folder = tmp_path_factory.mktemp("mixed")
    make_bert(folder / "a-vectors.gguf")
    make_llama(folder / "b-base.gguf")
    make_llama(folder / "c-cut.gguf", chat_template=TEMPLATE)
    whole = (folder / "c-cut.gguf").read_bytes()
    (folder / "c-cut.gguf").write_bytes(whole[: len(whole) // 2])
    make_llama(folder / "d-chat.gguf", n_ctx=32768, chat_template=TEMPLATE)
    return module_router("-c", "32768", models_dir=folder)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Any:
    opened = tab.open(scripted)
    opened.wait_for_selector(".card")
    pick(opened, "calm")
    return opened


# ---------------------------------------------------------------- buttons


def test_every_button_without_words_says_what_it_does(page: Any) -> None:
    """Shown for the pointer and for the keyboard's focus; Escape hides the words."""
    ask(page, says("hello"))
    page.fill(TEXT, "more")
    tip = page.locator(".tip")
    buttons = page.locator(".icon-button:not(.named):visible:enabled, .send:visible:enabled").all()
    assert len(buttons) > 8
    for button in buttons:
        button.hover()
        assert tip.inner_text() == button.evaluate("(element) => element.dataset.tip || element.getAttribute('aria-label')")
    page.mouse.move(700, 300)
    assert not tip.is_visible()
    page.keyboard.press("Escape")
    page.locator(TEXT).focus()
    page.keyboard.press("Shift+Tab")
    assert tip.inner_text().lower().startswith(page.evaluate(FOCUSED_LABEL).lower()[:20])
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_the_bar_has_words_where_there_is_room(page: Any) -> None:
    for name, words in (
        ("Two models side by side", "Side by side"),
        ("Settings of this conversation", "Settings"),
        ("Models and memory", "Models and memory"),
    ):
        button = page.locator("#topbar").get_by_role("button", name=name)
        assert button.inner_text().strip() == words
    page.set_viewport_size(PHONE)
    assert page.locator("#topbar .named-words:visible").count() == 0
    assert not is_wider_than_window(page)
    page.get_by_role("button", name="Conversations", exact=False).first.click()
    page.locator("#sidebar").get_by_role("button", name="Models and memory").click()
    page.locator("#room h2", has_text="Models and memory").wait_for()
    assert not page.locator("#sidebar").is_visible()


def test_memory_says_what_is_free_now(page: Any) -> None:
    page.get_by_role("button", name="Load, unload or download models").wait_for(state="attached")
    page.get_by_role("button", name="Models and memory").first.click()
    page.locator(".room-free", has_text="free now").wait_for()


# ---------------------------------------------------------------- the first model


def test_it_begins_with_a_model_that_can_chat(tab: Tab, mixed: Router) -> None:
    opened = tab.open(mixed)
    opened.wait_for_selector(".card")
    assert opened.locator(".picker-button").first.get_attribute("aria-label").startswith("Model: d-chat,")
    assert not opened.locator(".composer-note").is_visible()
    mixed.load("b-base")
    opened.wait_for_selector('.card[data-model="b-base"] .dot[data-state="loaded"]')
    opened.reload()
    opened.wait_for_selector(".card")
    assert opened.locator(".picker-button").first.get_attribute("aria-label").startswith("Model: d-chat,")


def test_a_model_without_a_template_is_marked(tab: Tab, mixed: Router) -> None:
    opened = tab.open(mixed)
    opened.wait_for_selector(".card")
    assert "no chat template" in opened.locator('.card[data-model="b-base"]').inner_text()
    assert "damaged" in opened.locator('.card[data-model="c-cut"]').inner_text()
    pick(opened, "b-base")
    assert "b-base has no chat template" in opened.locator(".composer-note").inner_text()
    assert violations(opened) == []
    opened.keyboard.press("Control+k")
    assert "no chat template" in opened.locator('.picker-row[data-model="b-base"]').first.inner_text()
    assert "cannot chat" in opened.locator('.picker-row[data-model="a-vectors"]').first.inner_text()


def test_nothing_is_chosen_where_all_are_broken(tab: Tab, router: StartRouter, tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"")
    opened = tab.open(router(models_dir=tmp_path))
    opened.wait_for_selector(".card")
    assert opened.locator(".picker-button").first.inner_text() == "Pick a model"


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("at", range(len(FAILURES)), ids=list(FAILURES))
def test_failures_are_explained_and_the_main_button_helps(page: Any, at: int) -> None:
    [cause, (words, main)] = list(FAILURES.items())[at]
    pick(page, f"bad{at}")
    ask(page, "hello")
    failure = page.locator(".failure")
    assert words in failure.inner_text()
    assert failure.locator(".button.primary").all_inner_texts() == [main]
    failure.locator("summary").click()
    assert "a line of its log" in failure.locator("pre").inner_text()
    assert cause in failure.inner_text()
    if words == "damaged":
        assert f"bad{at}.gguf" in failure.locator(".failure-file").inner_text()
    if main == "Models and memory":
        failure.get_by_role("button", name=main).click()
        row = page.locator(f'.room-row[data-model="bad{at}"]')
        assert words in row.locator(".room-error").inner_text()
        assert not row.locator(".room-words p").is_visible()
        row.locator("summary").click()
        assert cause in row.locator(".room-words p").inner_text()


# ---------------------------------------------------------------- code

STREAM = """async ([pieces, expected]) => {
    const { LiveMarkdown } = await import('/chat/live_markdown.js');
    const element = document.querySelector('#thread').appendChild(Object.assign(document.createElement('div'), { className: 'prose' }));
    const live = new LiveMarkdown(element);
    const headOf = (pre) => pre.previousElementSibling?.firstChild.textContent ?? 'no head';
    const head = () => [...element.querySelectorAll('pre')].map(headOf).join();
    const heads = [];
    let text = '';
    for (const [at, piece] of pieces.entries()) {
        live.set((text += piece));
        for (let frame = 0; frame < 300 && head() !== expected[at]; frame += 1) await new Promise(requestAnimationFrame);
        await new Promise((done) => setTimeout(done, 60)); // for anything else that is drawn
        heads.push(head());
    }
    live.finish(text);
    element.remove();
    return heads;
}"""  # drawn when there is time, so the test waits for each head


@pytest.mark.parametrize(
    ("pieces", "heads"),
    [
        (["```", "py", "thon", "\nx", " = 1\n", "y", "\n```"], ["text", "py", "python", "python", "python", "python", "python"]),
        (["a\n\n```js\nlet x", ";\n```\n\n", "b"], ["js", "js", "js"]),
        (["- one\n\n  ```sh\n  ls", " -l\n  ```\n", "- two"], ["sh", "sh", "sh"]),
    ],
    ids=["name in pieces", "with text around it", "in a list"],
)
def test_code_keeps_its_language_while_it_comes(page: Any, pieces: list[str], heads: list[str]) -> None:
    assert page.evaluate(STREAM, [pieces, heads]) == heads


@pytest.mark.parametrize("size", [None, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("before", ["", "- a point\n\n  "], ids=["alone", "in a list"])
def test_long_lines_of_code_scroll_in_their_block(page: Any, size: dict[str, int] | None, before: str) -> None:
    if size is not None:
        page.set_viewport_size(size)
    ask(page, says(f"{before}```python\n{'' if not before else '  '}x = '{'word ' * 80}'\n"))  # never closed: like one that still comes
    block = page.locator(".prose pre")
    assert block.evaluate("(pre) => pre.scrollWidth > pre.clientWidth + 100 && getComputedStyle(pre).overflowX === 'auto'")
    assert not is_wider_than_window(page)
    assert page.locator(".answer .prose").evaluate("(prose) => prose.scrollWidth <= prose.clientWidth")


# ---------------------------------------------------------------- the composer


def test_the_gauge_is_there_after_a_stop(tab: Tab, mixed: Router) -> None:
    opened = tab.open(mixed)
    opened.wait_for_selector(".card")
    ask(opened, "the cat", waits=False)
    opened.locator(".answer[aria-busy=true] .figures").wait_for()
    opened.keyboard.press("Escape")
    opened.wait_for_selector(IDLE)
    opened.locator(".note", has_text="Stopped").wait_for()
    assert "of 32,768 tokens" in opened.locator(".gauge").inner_text()
    eventually(lambda: not mixed.is_processing("d-chat"), "the end of the stopped stream")


def test_long_questions_are_folded(page: Any) -> None:
    long = "\n".join(f"line {number}" for number in range(200))
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=sse(delta(content="done"), "[DONE]")))
    ask(page, long)
    bubble = page.locator(".bubble")
    folded = bubble.bounding_box()["height"]
    page.get_by_role("button", name="Show all 200 lines").click()
    assert bubble.bounding_box()["height"] > 4 * folded
    page.get_by_role("button", name="Show less").click()
    assert bubble.bounding_box()["height"] == folded


# ---------------------------------------------------------------- settings


def open_settings(page: Any) -> Any:
    page.get_by_role("button", name="Settings of this conversation").click()
    return page.get_by_role("dialog", name="Settings of this conversation")


def test_settings_explain_themselves(page: Any) -> None:
    dialog = open_settings(page)
    for summary in dialog.locator("summary").all():
        summary.click()
    assert violations(page) == []
    helps = dialog.locator("input, select, textarea").evaluate_all(
        "(fields) => fields.map((field) => document.getElementById(field.getAttribute('aria-describedby')).textContent)"
    )
    assert len(helps) == 16
    assert all(len(text) > 20 for text in helps)


def test_stop_strings_and_a_schema_are_sent(page: Any, tab: Tab) -> None:
    dialog = open_settings(page)
    dialog.locator("summary", has_text="Form and end").click()
    dialog.get_by_label("Stop strings").fill("END\n\\n\\n\n")
    schema = dialog.get_by_label("JSON schema")
    for wrong, words in (("{", "not JSON"), ("[]", "is an object")):
        schema.fill(wrong)
        dialog.get_by_role("button", name="Save").click()
        assert words in dialog.get_by_role("alert").inner_text()
    schema.fill('{"type": "object"}')
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="detached")
    with page.expect_request(CHAT) as request:
        ask(page, "hello")
    sent = request.value.post_data_json
    assert sent["stop"] == ["END", "\n\n"]
    assert sent["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert "json_schema" not in sent
    dialog = open_settings(page)
    assert dialog.get_by_label("Stop strings").input_value() == "END\n\\n\\n"
    dialog.get_by_role("button", name="Defaults").click()
    dialog.get_by_role("button", name="Save").click()
    with page.expect_request(CHAT) as request:
        ask(page, "hello")
    assert not {"stop", "response_format"} & request.value.post_data_json.keys()
