"""Answers go on while the page is loaded again, closed or offline, and the page reads the rest."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browser import Tab
from chat_page import ANSWER, CHAT, IDLE, ask, pick
from conftest import Router, StartRouter, eventually

BUSY = ".answer[aria-busy=true]"
LONG = {"tokens": 150, "delay_s": 0.02}
WHOLE = "".join(f"t{number} " for number in range(150)).strip()
ENDLESS = {"tokens": 1, "hang": True, "die_after": 1}

# The connection of a streamed answer breaks inside its fourth piece, and the next `numRefused` attempts to read the rest fail.
BREAK = """(numRefused) => {
    const real = window.fetch;
    window.fetch = async (url, init) => {
        if (String(url).includes('/v1/stream?') && init.method === 'GET' && numRefused-- > 0) throw new TypeError('offline');
        const response = await real(url, init);
        if (!String(url).endsWith('/v1/chat/completions')) return response;
        const reader = response.body.getReader();
        let left = 4;
        const body = new ReadableStream({ async pull(controller) {
            if (!left) return new Promise(() => {});
            const { value } = await reader.read();
            if (--left) return controller.enqueue(value);
            controller.enqueue(value.slice(0, value.length - 7));
            setTimeout(() => { reader.cancel(); controller.error(new TypeError('network error')); }, 50);
        } }, { highWaterMark: 0 });
        return new Response(body, { headers: response.headers });
    };
}"""

# After the second piece of a streamed answer nothing comes any more, as from a server behind a network that is gone.
SILENCE = """() => {
    const real = window.fetch;
    window.fetch = async (url, init) => {
        const response = await real(url, init);
        if (!String(url).endsWith('/v1/chat/completions')) return response;
        const reader = response.body.getReader();
        let left = 2;
        const body = new ReadableStream({ start(controller) {
            init.signal.addEventListener('abort', () => controller.error(init.signal.reason));
        }, async pull(controller) {
            if (!left--) return new Promise(() => {});
            controller.enqueue((await reader.read()).value);
        } }, { highWaterMark: 0 });
        return new Response(body, { headers: response.headers });
    };
}"""


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("resume")
    for name, script in {"calm": {}, "slow": {"progress": [0.1, 0.5, 0.9], "load_s": 3}}.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return module_router(models_dir=folder, is_fake=True)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Iterator[Any]:
    opened = tab.open(scripted)
    opened.wait_for_selector(".card")
    pick(opened, "calm")
    yield opened
    eventually(lambda: scripted.status("calm") != "loaded" or not scripted.is_processing("calm"), "the end of all streams")


def begin(page: Any, script: dict[str, Any]) -> str:
    """Asks, and waits for the first text. Returns the name of the stream."""
    with page.expect_request(CHAT) as request:
        ask(page, script, waits=False)
    page.locator(f"{BUSY} .prose", has_text="t0").wait_for()
    name: str = request.value.headers["x-conversation-id"]
    return name


def prose(page: Any) -> str:
    text: str = page.locator(f"{ANSWER} >> .prose").inner_text()
    return text.strip()


def test_an_answer_goes_on_after_a_reload(page: Any) -> None:
    begin(page, LONG)
    page.reload()
    page.locator(BUSY).wait_for()
    page.wait_for_selector(IDLE)
    assert prose(page) == WHOLE
    assert page.locator(".figures").inner_text().startswith("150 tokens")
    assert page.locator(".failure").count() == 0
    assert page.get_by_text("Unfinished").count() == 0
    page.reload()
    page.locator(".conversation").click()
    assert prose(page) == WHOLE
    assert page.get_by_text("Unfinished").count() == 0


def test_a_reload_while_the_model_loads(page: Any) -> None:
    pick(page, "slow")
    ask(page, {"tokens": 3}, waits=False)
    page.locator(".wait", has_text="Loading slow").wait_for()
    page.reload()
    page.locator(".wait", has_text="Loading slow").wait_for()
    page.wait_for_selector(IDLE)
    assert prose(page) == "t0 t1 t2"


def test_an_answer_that_ended_while_the_page_was_closed(page: Any, scripted: Router) -> None:
    name = begin(page, {"tokens": 20, "delay_s": 0.02})
    page.goto("about:blank")
    lookup = {"conversation_ids": [name]}
    eventually(lambda: scripted.post("/v1/streams/lookup", lookup).json[0]["is_done"], "the end of the answer")
    page.goto(scripted.url)
    page.wait_for_selector(IDLE)
    assert prose(page).endswith("t19")
    assert page.get_by_text("Unfinished").count() == 0


def test_an_answer_that_the_server_does_not_have_stays_unfinished(page: Any, scripted: Router) -> None:
    name = begin(page, ENDLESS)
    page.goto("about:blank")
    assert scripted.request("DELETE", f"/v1/stream?conv_id={name}").status == 204
    page.goto(scripted.url)
    page.wait_for_selector(".welcome")
    page.locator(".conversation").click()
    page.locator(".note", has_text="Unfinished").wait_for()


def test_a_stop_after_a_reload_ends_the_answer_in_the_server(page: Any, scripted: Router) -> None:
    begin(page, ENDLESS)
    page.reload()
    page.locator(f"{BUSY} .prose", has_text="t0").wait_for()
    assert scripted.is_processing("calm")
    page.keyboard.press("Escape")
    page.locator(".note", has_text="Stopped").wait_for()
    eventually(lambda: not scripted.is_processing("calm"), "the end of the generation")


def test_an_answer_goes_on_after_the_connection_was_lost(page: Any) -> None:
    page.evaluate(BREAK, 2)
    ask(page, {"tokens": 40, "delay_s": 0.02, "text": "é🙂"}, waits=False)
    page.locator(".wait", has_text="The connection was lost. Trying again").wait_for()
    page.wait_for_selector(IDLE)
    assert prose(page) == "é🙂" * 40
    assert page.locator(".failure").count() == 0


def test_a_connection_that_is_silent_is_lost(tab: Tab, scripted: Router) -> None:
    tab.page.clock.install()
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "calm")
    page.evaluate(SILENCE)
    begin(page, {"tokens": 40, "delay_s": 0.02})
    page.clock.run_for(30_000)
    page.locator(f"{ANSWER} >> .prose", has_text="t39").wait_for()
    assert prose(page) == " ".join(f"t{number}" for number in range(40))


def test_two_tabs_see_one_answer_and_its_stop(page: Any, tab: Tab, scripted: Router) -> None:
    begin(page, ENDLESS)
    other = tab.context.new_page()
    other.goto(scripted.url)
    other.locator(".conversation").click()
    other.locator(f"{BUSY} .prose", has_text="t0").wait_for()
    other.keyboard.press("Escape")
    for each in (page, other):
        each.locator(".note", has_text="Stopped").wait_for()
        assert each.locator(".failure").count() == 0


def test_a_new_tab_begins_with_a_new_conversation(page: Any, tab: Tab, scripted: Router) -> None:
    begin(page, LONG)
    other = tab.context.new_page()
    other.goto(scripted.url)
    other.locator(".conversation").wait_for()
    assert other.locator(".welcome").is_visible()
    page.wait_for_selector(IDLE)
    assert other.locator(".welcome").is_visible()
