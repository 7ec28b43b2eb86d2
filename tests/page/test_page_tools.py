"""Tool calls and thoughts on the page: cards, results that the user writes, their requests, badges, names, figures of a stop."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, Tab, violations
from chat_page import ANSWER, CHAT, IDLE, TEXT, ask, delta, is_wider_than_window, pick, says, sse
from conftest import Router, StartRouter, eventually

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}
CAPABILITIES = ["completion", "chat", "tools", "thinking", "vision"]
CAPS = {"kwargs": ["enable_thinking", "reasoning_effort"], "supports_reasoning_effort": True, "supports_tools": True}


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("tools")
    for name, script in {"calm": {}, "plain": {}, "slow": {"progress": [0.1, 0.5, 0.9], "load_s": 20}}.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return module_router(models_dir=folder, is_fake=True)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Iterator[Any]:
    """`calm` claims that it can do everything."""

    def can(route: Any) -> None:
        answer = route.fetch()
        listing = answer.json()
        for model in listing["data"]:
            if model["id"] == "calm":
                model.update(capabilities=CAPABILITIES, chat_template_caps=CAPS)
            if model["id"] == "plain":
                model.update(capabilities=["completion", "chat"], chat_template_caps={"kwargs": []})
        route.fulfill(response=answer, json=listing)

    tab.page.route("**/models", can)
    opened = tab.open(scripted)
    opened.wait_for_selector(".card")
    pick(opened, "calm")
    yield opened
    opened.unroute_all(behavior="ignoreErrors")
    eventually(lambda: scripted.status("calm") != "loaded" or not scripted.is_processing("calm"), "the end of all streams")


def call(index: int, name: str, *pieces: str, call_id: str | None = None) -> list[dict[str, Any]]:
    """The deltas of a call, in the form of OpenAI's stream."""
    first = {"index": index, "id": call_id or f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [delta(tool_calls=[each]) for each in [first, *rest]]


def end(reason: str = "tool_calls") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


WEATHER = [*call(0, "weather", '{"pla', 'ce":"Ro', 'me","days":[1,2],"more":{}}'), end(), "[DONE]"]


def answer(page: Any, *events: Any) -> None:
    """The router's next answer."""
    page.unroute(CHAT)
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=sse(*events)))


def sent(page: Any, act: Callable[[], Any]) -> dict[str, Any]:
    with page.expect_request(CHAT) as request:
        act()
    found: dict[str, Any] = request.value.post_data_json
    page.wait_for_selector(IDLE)
    return found


# ---------------------------------------------------------------- a stream that a test feeds

# An answer in pieces from the test: `feed` sends one, `close` ends the stream.
FEED = """() => {
    const real = window.fetch;
    window.feed = null;
    window.fetch = async (url, init) => {
        if (!String(url).endsWith('/v1/chat/completions')) return real(url, init);
        const encoder = new TextEncoder();
        const body = new ReadableStream({ start(controller) {
            window.feed = (text) => controller.enqueue(encoder.encode(text));
            window.close_stream = () => controller.close();
            init.signal?.addEventListener('abort', () => controller.error(new DOMException('stopped', 'AbortError')));
        } });
        return new Response(body, { headers: window.headers ?? {} });
    };
}"""


def begin(page: Any, text: str = "hello") -> Callable[..., None]:
    """Asks a question; returns the function that feeds the answer."""
    page.evaluate(FEED)
    ask(page, text, waits=False)
    page.wait_for_function("() => Boolean(window.feed)")
    return lambda *events: page.evaluate("(text) => window.feed(text)", sse(*events))


# ---------------------------------------------------------------- calls


def test_a_call_is_shown_while_it_comes(page: Any) -> None:
    feed = begin(page)
    card = page.locator(".tool-call")
    feed(*call(0, "weather"))
    card.locator("code", has_text="weather").first.wait_for()
    assert card.locator(".chip").inner_text() == "writing its arguments"
    lines = [
        '{\n  "place": "Ro',
        '{\n  "place": "Rome, \\"x\\" {,}",\n  "days": [\n    1',
        '[\n    1,\n    2\n  ],\n  "none": {},\n  "list": []\n}',
    ]
    for piece, shown in zip(('{"place":"Ro', 'me, \\"x\\" {,}", "days": [1', ',2],"none":{ },"list":[]}'), lines, strict=True):
        feed(delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}]))
        page.wait_for_function("(text) => document.querySelector('.tool-call pre').textContent.includes(text)", arg=shown)
    feed(*call(1, "clock", "{}"), end(), "[DONE]")
    page.evaluate("window.close_stream()")
    page.wait_for_selector(IDLE)
    assert card.count() == 2
    assert card.locator(".chip").all_inner_texts() == ["waits for its result"] * 2
    page.locator(".tool-call .hljs-attr").first.wait_for()
    assert card.nth(0).locator("pre").inner_text().startswith('{\n  "place": "Rome')


def test_the_answer_goes_on_with_the_results(page: Any) -> None:
    answer(
        page, delta(reasoning_content="I look it up."), delta(content="Let me see."), *WEATHER[:-2], *call(1, "clock", ""), end(), "[DONE]"
    )
    ask(page, "weather?")
    page.get_by_role("button", name="Send the results").click()
    first, second = page.get_by_label("Result of weather"), page.get_by_label("Result of clock")
    assert first.evaluate("(field) => document.activeElement === field")  # nothing is sent without a result
    first.fill('{"degrees":20}')
    second.fill("noon")
    answer(page, delta(content="20 degrees at noon."), "[DONE]")
    messages = sent(page, lambda: second.press("Enter"))["messages"]
    arguments = ['{"place":"Rome","days":[1,2],"more":{}}', "{}"]
    calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": arguments[at]}}
        for at, name in enumerate(("weather", "clock"))
    ]
    assert messages == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "I look it up.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_0", "name": "weather", "content": '{"degrees":20}'},
        {"role": "tool", "tool_call_id": "call_1", "name": "clock", "content": "noon"},
    ]
    assert page.evaluate("document.activeElement.id") == "composer-text"
    assert page.locator(".answer").count() == 2
    assert page.locator(".tool-call .chip").all_inner_texts() == ["has its result"] * 2
    assert page.locator(".tool-result pre").all_inner_texts() == ['{\n  "degrees": 20\n}', "noon"]
    assert page.locator(f"{ANSWER} >> .prose").inner_text() == "20 degrees at noon."


def test_a_tool_loop_through_the_router(page: Any) -> None:
    first = {"index": 0, "id": "c1", "name": "weather", "arguments": ""}
    pieces = [{"index": 0, "arguments": text} for text in ('{"place":', ' "Rome"}')]
    deltas = [{"reasoning": "I look it up."}, {"text": "Let me see."}, *({"calls": [piece]} for piece in (first, *pieces))]
    ask(page, {"deltas": deltas, "delay_s": 0.02})
    assert page.locator(".tool-call pre").inner_text() == '{\n  "place": "Rome"\n}'
    assert not page.locator(".note").is_visible()  # it was not cut
    assert page.locator(".reasoning summary").inner_text().startswith("Thought")
    page.get_by_label("Result of weather").fill(json.dumps(says("It is warm.")))
    messages = sent(page, lambda: page.keyboard.press("Enter"))["messages"]
    assert messages[-1]["tool_call_id"] == messages[-2]["tool_calls"][0]["id"] == "c1"
    assert page.locator(f"{ANSWER} >> .prose").inner_text() == "It is warm."


def test_results_have_versions_and_survive_a_reload(page: Any) -> None:
    answer(page, *WEATHER)
    ask(page, "weather?")
    answer(page, delta(content="warm"), "[DONE]")
    page.get_by_label("Result of weather").fill("20")
    sent(page, lambda: page.get_by_role("button", name="Send the result").click())
    page.get_by_role("button", name="Change the result").click()
    field = page.get_by_label("Result of weather")
    assert field.input_value() == "20"
    page.get_by_role("button", name="Cancel").click()
    assert page.locator(".tool-result pre").inner_text() == "20"
    page.get_by_role("button", name="Change the result").click()
    answer(page, delta(content="cold"), "[DONE]")
    field.fill("-3")
    assert sent(page, lambda: field.press("Enter"))["messages"][-1]["content"] == "-3"
    page.get_by_text("cold").wait_for()
    page.reload()
    page.locator(".conversation").click()
    versions = page.locator(".tool-foot .siblings")
    assert versions.inner_text().strip() == "2 / 2"
    versions.get_by_role("button", name="Previous version").focus()
    page.keyboard.press("Enter")
    page.get_by_text("warm").wait_for()
    assert page.locator(".tool-result pre").inner_text() == "20"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Next version"
    page.fill('[aria-label="Search conversations"]', "rome")
    assert page.locator(".conversation").count() == 1


def test_who_writes_a_message_instead_goes_on_without_the_result(page: Any) -> None:
    answer(page, *WEATHER)
    ask(page, "weather?")
    assert "waits for the result" in page.locator(".composer-note").inner_text()
    answer(page, delta(content="Fine."), "[DONE]")
    messages = sent(page, lambda: ask(page, "never mind"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    assert (messages[1]["content"], messages[2]["content"]) == ("", "No result.")
    assert page.locator(".tool-call .chip").inner_text() == "got no result"
    page.get_by_role("button", name="Give a result").click()
    page.get_by_label("Result of weather").fill("20")
    messages = sent(page, lambda: page.keyboard.press("Enter"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]


def test_a_call_that_broke_off_is_left_out(page: Any) -> None:
    feed = begin(page, "weather?")
    feed(delta(content="Let me see."), *call(0, "weather", '{"place":"Ro'))
    page.locator(".tool-call pre", has_text="Ro").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_selector(IDLE)
    assert page.locator(".tool-call .chip").inner_text() == "incomplete"
    assert page.locator(".tool-call pre").inner_text() == '{"place":"Ro'
    assert page.locator(".tool-call textarea").count() == 0
    feed = begin(page, "go on")
    feed(delta(content="yes"), "[DONE]")
    page.evaluate("window.close_stream()")
    page.wait_for_selector(IDLE)
    page.reload()
    page.locator(".conversation").click()
    answer(page, delta(content="done"), "[DONE]")
    messages = sent(page, lambda: ask(page, "last"))["messages"]
    assert [message["content"] for message in messages] == ["weather?", "Let me see.", "go on", "yes", "last"]
    assert not any("tool_calls" in message for message in messages)


def test_a_call_of_a_pair_goes_on_with_its_model(page: Any) -> None:
    page.get_by_role("button", name="Two models side by side").click()
    page.locator('.picker[data-label="Second model"] .picker-button').click()
    page.keyboard.type("plain")
    page.keyboard.press("Enter")
    answer(page, *WEATHER)
    ask(page, "weather?")
    page.locator(".pair .answer >> nth=1").get_by_label("Result of weather").fill("20")
    answer(page, delta(content="warm"), "[DONE]")
    assert sent(page, lambda: page.keyboard.press("Enter"))["model"] == "plain"
    assert page.locator(".answer").count() == 3


def test_what_is_missing_in_a_folded_card_is_shown(page: Any) -> None:
    answer(page, *WEATHER)
    ask(page, "weather?")
    page.locator(".tool-call summary").click()
    assert not page.get_by_label("Result of weather").is_visible()
    page.get_by_role("button", name="Send the result").click()
    assert page.get_by_label("Result of weather").is_visible()
    assert page.locator(".answer").count() == 1


def test_another_tab_leaves_alone_what_is_being_written(page: Any, tab: Tab, scripted: Router) -> None:
    answer(page, *WEATHER)
    ask(page, "weather?")
    page.get_by_label("Result of weather").fill("half a res")
    other = tab.context.new_page()
    other.goto(scripted.url)
    other.wait_for_selector(".card")
    pick(other, "calm")
    ask(other, says("of the other tab"))
    page.locator(".conversation >> nth=1").wait_for()
    assert page.get_by_label("Result of weather").input_value() == "half a res"


ATTACK = "</code></pre><img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


def test_what_a_call_says_is_text(page: Any) -> None:
    arguments = json.dumps({ATTACK: [ATTACK]})
    answer(page, delta(reasoning_content=ATTACK), *call(0, ATTACK, arguments), *call(1, "cut", ATTACK), end(), "[DONE]")
    ask(page, "hello")
    page.locator(".tool-call .hljs-attr").first.wait_for()
    page.get_by_label("Result of").fill(arguments)
    answer(page, delta(content="ok"), "[DONE]")
    sent(page, lambda: page.keyboard.press("Enter"))
    page.locator(".tool-result .hljs-attr").first.wait_for()
    assert page.locator(".answer :is(img, script)").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.locator(".tool-call summary code").first.inner_text() == ATTACK


# ---------------------------------------------------------------- thoughts


def test_thoughts_are_open_while_they_come_and_then_folded(page: Any) -> None:
    feed = begin(page)
    feed(delta(reasoning_content="I weigh it"))
    page.locator(".thoughts", has_text="I weigh it").wait_for()
    assert page.locator(".reasoning summary").inner_text().startswith("Thinking …")
    page.wait_for_timeout(60)  # it takes some time
    feed(delta(reasoning_content=" well"), delta(content="Yes"))
    page.locator(".prose", has_text="Yes").wait_for()
    assert not page.locator(".thoughts").is_visible()
    page.locator(".reasoning summary").click()
    page.locator(".thoughts", has_text="I weigh it well").wait_for()
    feed(delta(content=", yes."), "[DONE]")
    page.evaluate("window.close_stream()")
    page.wait_for_selector(IDLE)
    assert page.locator(".thoughts").is_visible()  # the reader has opened them
    label = page.locator(".reasoning summary").inner_text()
    assert label.startswith("Thought for ")
    page.reload()
    page.locator(".conversation").click()
    assert page.locator(".reasoning summary").inner_text() == label
    assert not page.locator(".thoughts").is_visible()


def test_thoughts_that_were_closed_stay_closed(page: Any) -> None:
    feed = begin(page)
    feed(delta(content="<think>"), delta(content="One"))
    page.locator(".thoughts", has_text="One").wait_for()
    page.locator(".reasoning summary").focus()
    page.keyboard.press("Enter")
    feed(delta(content=" two"))
    page.wait_for_function("() => document.querySelector('.thoughts').textContent.includes('two')")
    assert not page.locator(".thoughts").is_visible()
    feed(delta(content="</think>Three"), "[DONE]")
    page.evaluate("window.close_stream()")
    page.wait_for_selector(IDLE)
    assert page.locator(".answer > .prose").inner_text() == "Three"


# ---------------------------------------------------------------- a stop


def test_a_stop_shows_what_a_whole_answer_shows(named: Any) -> None:
    page, feed = named, begin(named)
    page.evaluate("window.feed(': loading 40%\\n\\n')")
    page.locator(".wait", has_text="Loading calm 40%").wait_for()
    page.wait_for_timeout(30)
    progress = {"total": 1200, "cache": 1000, "processed": 1100, "time_ms": 5}
    feed({**delta(role="assistant", content=None), "prompt_progress": progress})
    page.locator(".wait", has_text="Reading the prompt").wait_for()
    page.wait_for_timeout(30)
    feed(*(delta(content=f"t{number} ") for number in range(3)))
    page.locator(".prose", has_text="t2").wait_for()
    page.wait_for_timeout(300)
    feed(delta(content="t3"))
    page.locator(".prose", has_text="t3").wait_for()
    page.keyboard.press("Escape")
    page.locator(".note", has_text="Stopped").wait_for()
    figures = page.locator(".figures").inner_text()
    wanted = ("4 tokens", "tokens/s", "first token", "1,000 of 1,200 prompt tokens cached", "Switched", "load", "prefill", "answer")
    assert all(word in figures for word in wanted), figures
    assert page.locator(".gauge").inner_text().startswith("1,204 of 4,096 tokens")


def test_a_stop_before_the_first_token_says_what_took_the_time(page: Any, scripted: Router) -> None:
    pick(page, "slow")
    ask(page, says("never"), waits=False)
    page.locator(".wait", has_text="Loading slow").wait_for()
    page.keyboard.press("Escape")
    page.locator(".note", has_text="Stopped").wait_for()
    figures = page.locator(".figures").inner_text()
    assert "load" in figures
    assert "token" not in figures
    assert "Switched" not in figures
    scripted.unload("slow")


# ---------------------------------------------------------------- settings


def settings(page: Any, section: str = "Tools") -> Any:
    page.get_by_role("button", name="Settings of this conversation").click()
    dialog = page.get_by_role("dialog", name="Settings of this conversation")
    dialog.locator("summary", has_text=section).click()
    return dialog


def test_tools_are_checked_when_they_are_pasted_and_sent(page: Any) -> None:
    dialog = settings(page)
    field = dialog.get_by_label("Tools", exact=True)
    wrong = {
        "{": ("not JSON", "Write a list"),
        "[1]": ("tools[0] is not an object", "Write a list"),
        json.dumps([TOOL, {"type": "function", "function": {}}]): ("tools[1].function.name is missing", 'Write "name"'),
        json.dumps([TOOL, TOOL]): ("Two tools are called weather", "another name"),
        json.dumps([{"type": "web_search"}]): ('tools[0].type is "web_search"', 'only "function"'),
        json.dumps({"name": "f", "parameters": []}): ("The tool.parameters is not an object", "Write a JSON schema"),
    }
    for text, words in wrong.items():
        field.fill(text)
        problem = dialog.get_by_role("alert").inner_text()
        assert all(word in problem for word in words), problem
    dialog.get_by_role("button", name="Save").click()
    assert field.evaluate("(input) => document.activeElement === input")
    field.fill(json.dumps([TOOL, {"name": "clock", "description": "Says the time.", "input_schema": {"type": "object"}}]))
    assert dialog.locator(".settings-fine >> visible=true").inner_text() == "2 tools: weather, clock"
    dialog.get_by_label("Tool choice").select_option("required")
    dialog.get_by_label("Reasoning effort").select_option("low")
    dialog.get_by_label("Thinking", exact=True).select_option("false")
    assert violations(page) == []
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="detached")
    answer(page, delta(content="ok"), "[DONE]")
    body = sent(page, lambda: ask(page, "hello"))
    clock = {"name": "clock", "description": "Says the time.", "parameters": {"type": "object"}}
    assert body["tools"] == [TOOL, {"type": "function", "function": clock}]
    assert (body["tool_choice"], body["reasoning_effort"], body["chat_template_kwargs"]) == ("required", "low", {"enable_thinking": False})
    chip = page.locator(".composer-tools")
    assert chip.inner_text() == "2 tools, required"
    chip.click()
    dialog = page.get_by_role("dialog", name="Settings of this conversation")
    assert dialog.get_by_label("Tools", exact=True).is_visible()
    dialog.get_by_role("button", name="Defaults").click()
    dialog.get_by_role("button", name="Save").click()
    body = sent(page, lambda: ask(page, "hello"))
    assert not {"tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"} & body.keys()
    assert not chip.is_visible()


def test_tools_of_a_model_that_has_no_place_for_them(page: Any) -> None:
    dialog = settings(page)
    dialog.get_by_label("Tools", exact=True).fill(json.dumps(TOOL))
    dialog.get_by_role("button", name="Save").click()
    assert not page.locator(".composer-note").is_visible()
    pick(page, "plain")
    assert "plain was not made to call tools" in page.locator(".composer-note").inner_text()
    dialog = settings(page, "This browser")
    assert dialog.get_by_label("Reasoning effort").count() == 0


# ---------------------------------------------------------------- badges


def test_badges_say_what_a_model_can_do(page: Any) -> None:
    badges = ["chat", "tools", "thinking", "vision"]
    assert page.locator('.card[data-model="calm"] .badge').all_inner_texts() == badges
    assert page.locator('.card[data-model="plain"] .badge').all_inner_texts() == ["chat"]
    assert page.locator('.card[data-model="slow"] .badge').count() == 0  # nothing is known about it
    page.keyboard.press("Control+k")
    assert page.locator('.picker-row[data-model="calm"] .badge').all_inner_texts() == badges
    page.keyboard.type("vision")
    assert page.locator(".picker-row").count() == 1
    page.locator(".picker-row .badge", has_text="vision").hover()
    assert page.locator(".tip").inner_text() == "It sees pictures"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Models and memory").first.click()
    page.locator('#room [data-model="calm"] .badge').first.wait_for()
    assert page.locator('#room [data-model="calm"] .badge').all_inner_texts() == badges
    assert violations(page) == []


# ---------------------------------------------------------------- names


@pytest.fixture
def named(page: Any, scripted: Router) -> Any:
    page.evaluate("localStorage.setItem('fastrouter.naming', 'true')")
    if scripted.status("calm") != "loaded":
        scripted.load("calm")
    page.wait_for_selector('.card[data-model="calm"] .dot[data-state="loaded"]')
    return page


def title_answer(page: Any, content: str | None, finish: str = "stop", status: int = 200) -> list[dict[str, Any]]:
    """Answers streams with "42"; all other requests are for titles. Returns the requests for titles, in order."""
    asked: list[dict[str, Any]] = []

    def give(route: Any) -> None:
        body = route.request.post_data_json
        if body.get("stream"):
            route.fulfill(content_type="text/event-stream", body=sse(delta(content="It is 42."), "[DONE]"))
            return
        asked.append(body)
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
        route.fulfill(
            status=status, json={"choices": [choice]} if status == 200 else {"error": {"code": status, "message": "no", "type": "x"}}
        )

    page.unroute(CHAT)
    page.route(CHAT, give)
    return asked


def wait_for_one(page: Any, asked: list[dict[str, Any]]) -> None:
    """The page's own wait: Playwright calls a route only while it waits for the browser."""

    def is_there() -> bool:
        page.wait_for_timeout(10)
        return len(asked) == 1

    eventually(is_there, "the request for a name")


@pytest.mark.parametrize(
    ("content", "finish", "title"),
    [
        ("The Final Answer", "stop", "The Final Answer"),
        ('\n"**Title: The Final Answer.**"\nIt is about', "length", "The Final Answer"),
        ("The Final Answer to Everyth", "length", "The Final Answer to"),
        ("The answer to everything is a number and no more", "stop", None),
        ("What is the answer", "stop", None),
        ("<think>Let me see, the user", "length", None),
        ("", "stop", None),
        (None, "length", None),
    ],
    ids=["plain", "marks", "cut", "sentence", "question", "thoughts", "empty", "nothing"],
)
def test_conversations_are_named_by_the_model(named: Any, content: str | None, finish: str, title: str | None) -> None:
    asked = title_answer(named, content, finish)
    ask(named, "What is the answer to everything?")
    wait_for_one(named, asked)
    named.locator(".conversation", has_text=title or "What is the answer to everything?").wait_for()
    body = asked[0]
    assert (body["model"], body["max_tokens"], "stream" in body) == ("calm", 12, False)
    assert body["priority"] < 0
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert all(text in body["messages"][0]["content"] for text in ("What is the answer to everything?", "It is 42."))
    ask(named, "And again?")
    assert named.locator(".conversation").inner_text() == (title or "What is the answer to everything?")
    assert len(asked) == 1
    if title:
        assert named.title() == f"{title} · fastrouter"


def test_a_name_that_is_refused_or_not_wanted(named: Any) -> None:
    asked = title_answer(named, None, status=503)
    ask(named, "first")
    wait_for_one(named, asked)
    assert named.locator(".conversation").inner_text() == "first"
    dialog = settings(named, "This browser")
    dialog.get_by_label("Names by the model").uncheck()
    dialog.get_by_role("button", name="Save").click()
    asked = title_answer(named, "Never")
    named.keyboard.press("Control+Shift+O")
    ask(named, "second")
    named.keyboard.press("Control+Shift+O")
    ask(named, "third")
    assert not asked
    assert named.locator(".conversation").all_inner_texts() == ["third", "second", "first"]


def test_the_router_may_turn_names_off(router: StartRouter, models: Path, tab: Tab) -> None:
    opened = tab.open(router("--ui-config", '{"nameConversations": false}', models_dir=models))
    opened.wait_for_selector(".card")
    opened.evaluate("localStorage.removeItem('fastrouter.naming')")
    dialog = settings(opened, "This browser")
    assert not dialog.get_by_label("Names by the model").is_checked()


# ---------------------------------------------------------------- files


def test_files_keep_calls_results_and_thoughts(page: Any, tmp_path: Path) -> None:
    dialog = settings(page)
    dialog.get_by_label("Tools", exact=True).fill(json.dumps(TOOL))
    dialog.get_by_label("Tool choice").select_option("none")
    dialog.get_by_role("button", name="Save").click()
    answer(page, delta(reasoning_content="I look it up."), *WEATHER)
    ask(page, "weather?")
    answer(page, delta(content="Warm."), "[DONE]")
    page.get_by_label("Result of weather").fill("``` 20 ```")
    sent(page, lambda: page.keyboard.press("Enter"))

    def export(act: str) -> str:
        page.locator(".conversations li .icon-button").first.click()
        with page.expect_download() as download:
            page.locator(f'.menu [data-act="{act}"]').click()
        return Path(download.value.path()).read_text()

    text = export("markdown")
    assert 'Calls `weather`:\n\n```json\n{\n  "place": "Rome",' in text
    assert "Result of `weather`:\n\n````\n``` 20 ```\n````" in text
    assert "I look it up." in text
    (tmp_path / "one.json").write_text(export("json"))
    page.locator(".conversations li .icon-button").first.click()
    page.locator('.menu [data-act="delete"]').click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.set_input_files('[aria-label="File to import"]', tmp_path / "one.json")
    page.locator(".conversation").click()
    assert page.locator(".tool-result pre").inner_text() == "``` 20 ```"
    assert page.locator(".reasoning summary").inner_text().startswith("Thought")
    body = sent(page, lambda: ask(page, "and now?"))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "assistant", "user"]
    assert body["messages"][2]["tool_call_id"] == body["messages"][1]["tool_calls"][0]["id"] == "call_0"
    assert body["messages"][1]["reasoning_content"] == "I look it up."
    assert (body["tools"], body["tool_choice"]) == ([TOOL], "none")


# ---------------------------------------------------------------- accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_cards_and_thoughts(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    answer(page, delta(reasoning_content="hm"), *WEATHER[:-2], *call(1, "broken", '{"x'), end(), "[DONE]")
    ask(page, "weather?")
    page.locator(".reasoning summary").click()
    assert violations(page) == []
    page.get_by_label("Result of weather").fill('{"degrees": 20}')
    answer(page, delta(content="Warm."), "[DONE]")
    sent(page, lambda: page.keyboard.press("Enter"))
    assert violations(page) == []


def test_cards_fit_on_a_phone(page: Any) -> None:
    page.set_viewport_size(PHONE)
    answer(page, *call(0, "a_tool_with_a_name_" * 4, json.dumps({"text": "word" * 200})), end(), "[DONE]")
    ask(page, "hello")
    assert not is_wider_than_window(page)
    assert page.locator(".tool-call").evaluate("(card) => card.scrollWidth <= card.clientWidth + 1")
    assert page.locator(TEXT).is_visible()


def test_screen_readers_hear_of_a_call(page: Any) -> None:
    answer(page, *WEATHER)
    ask(page, "weather?")
    assert page.locator("#spoken").inner_text() == "The model calls weather, and waits for the result"
