"""The page when things fail, and problems of people with a phone, a tablet or a keyboard: keys, cuts, bursts, drawers, focus."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, Tab
from chat_page import ask, pick, says
from conftest import Router, StartRouter
from tiny_models import make_llama

TABLET = {"width": 820, "height": 1180}
IS_AT_END = """() => {
    const { scrollHeight, scrollTop, clientHeight } = document.querySelector('.thread');
    return scrollHeight - scrollTop - clientHeight < 2;
}"""
FOCUSED = "document.activeElement.textContent"
LONG_CAUSE = "tensor 'blk.0.attn_q.weight' of " + "a_file_whose_name_has_no_space_" * 4


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("troubles")
    for name, script in {"calm": {}, "bad": {"fail": LONG_CAUSE, "lines": [LONG_CAUSE]}}.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return module_router(models_dir=folder, is_fake=True)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Any:
    opened = tab.open(scripted)
    opened.wait_for_selector(".card")
    pick(opened, "calm")
    return opened


@pytest.fixture
def phone(chromium: Any, scripted: Router) -> Iterator[Any]:
    held = Tab(chromium, viewport=PHONE, has_touch=True, is_mobile=True)
    try:
        opened = held.open(scripted)
        opened.wait_for_selector(".card")
        yield opened
    finally:
        held.close()


# ---------------------------------------------------------------- answers


def test_the_end_stays_in_sight_however_fast_it_goes_away(page: Any) -> None:
    for _ in range(3):
        ask(page, {"tokens": 400, "text": "word\n\n"})
        page.wait_for_function(IS_AT_END)
        assert not page.locator(".to-end").is_visible()
    ask(page, {"tokens": 400, "text": "word\n\n", "delay_s": 0.01}, waits=False)
    page.locator(".answer[aria-busy=true] p >> nth=60").wait_for()
    page.locator(".thread").hover()
    page.mouse.wheel(0, -600)
    page.locator(".to-end").wait_for()
    top = page.evaluate("document.querySelector('.thread').scrollTop")
    page.locator(".answer[aria-busy=true] p >> nth=120").wait_for()
    assert page.evaluate("document.querySelector('.thread').scrollTop") == top
    page.locator(".to-end").click()
    page.wait_for_selector(".answer[aria-busy=true]", state="detached")
    page.wait_for_function(IS_AT_END)


def test_a_worker_that_dies_says_of_what(page: Any) -> None:
    ask(page, {"tokens": 300, "delay_s": 0.01, "die": "SIGKILL", "die_after": 20})
    failure = page.locator(".failure")
    failure.get_by_text("The answer is incomplete").wait_for()
    failure.get_by_text("killed by signal 9").wait_for()
    assert "t19" in page.locator(".prose").inner_text()


def test_a_worker_that_dies_is_a_pause(page: Any, tmp_path: Path) -> None:
    ask(page, {"tokens": 60, "delay_s": 0.01, "die": "SIGKILL", "die_after": 20, "once": str(tmp_path / "died")})
    page.locator(".prose").get_by_text("t59").wait_for()
    page.wait_for_selector(".answer[aria-busy=true]", state="detached")
    assert not page.locator(".failure").count()
    assert page.locator(".prose").inner_text().split() == [f"t{number}" for number in range(60)]


def test_what_is_too_long_for_the_model_begins_anew(tab: Tab, router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "tiny.gguf")
    opened = tab.open(router("-c", "256", models_dir=tmp_path))
    opened.wait_for_selector(".card")
    ask(opened, "many words " * 200)
    failure = opened.locator(".failure")
    failure.get_by_text("too long for this model").wait_for()
    failure.get_by_role("button", name="New chat").click()
    opened.locator(".welcome").wait_for()
    assert opened.evaluate("document.activeElement.id") == "composer-text"


def test_what_gets_in_all_the_same_can_do_nothing(tab: Tab, page: Any) -> None:
    page.evaluate("""() => {
        window.refused = [];
        document.addEventListener('securitypolicyviolation', (event) => window.refused.push(event.effectiveDirective));
        document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hacked = 1' }));
        document.body.append(Object.assign(document.createElement('iframe'), { src: 'https://evil.example' }));
        document.body.append(Object.assign(new Image(), { src: 'https://evil.example/pixel.png' }));
        document.body.insertAdjacentHTML('beforeend', '<p onclick="window.hacked = 1" style="color: red">x</p>');
        document.body.lastElementChild.click();
        fetch('https://evil.example').catch(() => {});
        const form = document.body.appendChild(Object.assign(document.createElement('form'), { action: '/' }));
        form.submit();
    }""")
    wanted = {"script-src-elem", "script-src-attr", "style-src-attr", "img-src", "frame-src", "connect-src", "form-action"}
    page.wait_for_function("(wanted) => new Set(window.refused).size >= wanted", arg=len(wanted))
    assert set(page.evaluate("window.refused")) == wanted
    assert page.evaluate("window.hacked") is None
    tab.problems.clear()  # the browser's messages about what it refused


# ---------------------------------------------------------------- keys and addresses


def test_who_gives_no_key_can_give_it_later(tab: Tab, router: StartRouter, models: Path) -> None:
    opened = tab.open(router("--api-key", "right", models_dir=models))
    opened.get_by_label("Key", exact=True).wait_for()
    opened.keyboard.press("Escape")
    opened.get_by_role("button", name="Enter the key").click()
    opened.get_by_label("Key", exact=True).fill("right")
    opened.keyboard.press("Enter")
    opened.wait_for_selector('.card[data-model="tiny2"]')
    assert opened.evaluate("document.activeElement.id") == "composer-text"


def test_a_variant_has_no_life_of_its_own(tab: Tab, router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "tiny.gguf")
    presets = tmp_path / "presets.ini"
    presets.write_text(f"[plain]\nmodel = {tmp_path / 'tiny.gguf'}\n[warm]\nbase = plain\ntemp = 1.2\n")
    served = router("--models-preset", str(presets))
    opened = tab.open(served)
    opened.wait_for_selector('.card[data-model="warm"]')
    opened.keyboard.press("Control+k")
    assert "variant of plain" in opened.locator('.picker-row[data-model="warm"]').inner_text()
    opened.keyboard.press("Escape")
    served.load("warm")
    opened.get_by_role("button", name="Models and memory").first.click()
    opened.locator('.room-lane[data-model="plain"]').wait_for()
    assert opened.locator(".room-lane").count() == 1
    assert opened.locator(".room-card").count() == 1
    assert "warm" not in opened.locator(".room-news").inner_text()


# ---------------------------------------------------------------- small windows, keyboards


def test_a_phone_begins_at_the_top_and_shows_all_of_an_error(phone: Any) -> None:
    assert phone.evaluate("document.querySelector('.thread').scrollTop") == 0
    pick(phone, "bad")
    ask(phone, "hello")
    phone.locator(".failure summary").click()
    for part in ("p", "pre", ".buttons"):
        box = phone.locator(f".failure {part}").bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= PHONE["width"], part
    pick(phone, "calm")
    ask(phone, says("| model | numbers |\n|---|---|\n| SmolLM2-Instruct | 1,234,567 |\n" + "| word " * 9 + "|\n"))
    assert phone.locator(".prose th >> nth=0").evaluate("(cell) => cell.getClientRects().length && cell.offsetHeight < 60")


def test_a_drawer_keeps_the_rest_out_of_reach(chromium: Any, scripted: Router) -> None:
    held = Tab(chromium, viewport=TABLET)
    try:
        opened = held.open(scripted)
        opened.wait_for_selector(".card")
        opened.get_by_role("button", name="Models and memory").first.click()
        opened.locator("#room h2").wait_for()
        assert opened.evaluate("[...document.querySelectorAll('#main, #sidebar')].every((one) => one.inert)")
        for _ in range(30):
            opened.keyboard.press("Tab")
            assert opened.evaluate("!document.activeElement.closest('#main, #sidebar')")
        opened.mouse.click(200, 600)
        opened.locator("#room").wait_for(state="hidden")
        assert not opened.evaluate("document.querySelector('#main').inert")
        assert opened.evaluate("document.activeElement.getAttribute('aria-label')") == "Models and memory"
    finally:
        held.close()


def test_the_list_of_conversations_keeps_the_keyboard_where_it_is(page: Any) -> None:
    ask(page, says("one"))
    page.keyboard.press("Control+Shift+O")
    ask(page, {"tokens": 250, "delay_s": 0.01}, waits=False)  # stored from time to time while it comes
    page.locator(".conversation >> nth=1").focus()
    title = page.evaluate(FOCUSED)
    page.wait_for_selector(".answer[aria-busy=true]", state="detached")
    assert page.evaluate(FOCUSED) == title
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Rename").last.click()
    page.get_by_label("Title").fill("Renamed")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Renamed", exact=True).wait_for()
    page.wait_for_function("() => document.activeElement.getAttribute('aria-label')?.includes('Renamed')")


def test_who_answers_again_is_not_lost(page: Any) -> None:
    ask(page, says("one"))
    for button in ("Answer again", "Answer again with another model"):
        page.get_by_role("button", name=button, exact=True).focus()
        page.keyboard.press("Enter")
        if "model" in button:
            page.keyboard.type("calm")
            page.keyboard.press("Enter")
        page.wait_for_function("() => document.activeElement.id === 'composer-text'")
    page.locator(".answer .siblings", has_text="3 / 3").wait_for()
    page.get_by_role("button", name="Previous version").focus()
    page.keyboard.press("Enter")
    page.locator(".answer .siblings", has_text="2 / 3").wait_for()
    page.keyboard.press("Enter")
    page.locator(".answer .siblings", has_text="1 / 3").wait_for()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Next version"


def test_the_theme_follows_the_system_while_the_page_is_open(page: Any) -> None:
    icon = page.get_by_role("button", name="Light or dark").locator("path")
    light = icon.get_attribute("d")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector(':root[data-theme="dark"]')
    assert icon.get_attribute("d") != light
    page.emulate_media(color_scheme="light")
    page.wait_for_selector(':root[data-theme="light"]')
    assert icon.get_attribute("d") == light
