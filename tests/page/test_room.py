"""The panel `Models and memory` in a real browser on a real router: it shows what happens, and asks before it acts.

The workers follow scripts (fake_worker.py), so that answers are as slow as a test needs; the hub is fake_hub.py.
"""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_hub
import pytest
from browser import PHONE, Tab, violations
from conftest import Router, StartRouter, eventually
from fake_hub import FakeHub, serving
from tiny_models import make_llama

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
expect.set_options(timeout=20_000)

NAME = "u/r:Q4_K_M"
FILE = "m-Q4_K_M.gguf"
SLOW = {"progress": [0.25, 0.5, 0.75], "load_s": 1.5}
HOSTILE = "<img src=x onerror=alert(1)> <b>bold</b>"


@pytest.fixture(scope="module")
def hub(models: Path) -> Iterator[FakeHub]:
    with serving(FakeHub(repos={"u/r": {FILE: (models / "tiny0.gguf").read_bytes()}})) as hub:
        yield hub


@pytest.fixture(scope="module")
def served(module_router: StartRouter, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("models")
    for seed in range(3):
        make_llama(folder / f"tiny{seed}.gguf", seed=seed)
    (folder / "slow.gguf").write_text(json.dumps(SLOW))
    env = {"LLAMA_CACHE": str(tmp_path_factory.mktemp("cache")), "HF_ENDPOINT": hub.url}
    return module_router("--models-max", "2", "--temp", "0.3", "-np", "4", models_dir=folder, env=env, is_fake=True)


@pytest.fixture
def server(served: Router) -> Iterator[Router]:
    """With nothing in memory, before and after."""
    yield served
    for entry in served.get("/models").json["data"]:
        if entry["status"]["value"] in ("loaded", "loading"):
            served.unload(entry["id"])


@pytest.fixture
def room(tab: Tab, server: Router) -> Any:
    return opened(tab, server)


def opened(tab: Tab, server: Router) -> Any:
    """The open room."""
    page = tab.open(server)
    page.get_by_role("button", name=re.compile("^Models and memory")).click()
    room = page.get_by_role("complementary", name="Models and memory")
    expect(room.get_by_role("heading", name="Models and memory")).to_be_visible()
    return room


def card(room: Any, model: str) -> Any:
    return room.get_by_role("region", name="In memory").locator(f'[data-model="{model}"]')


def on_disk(room: Any, model: str) -> Any:
    return room.get_by_role("region", name="On disk").locator(f'[data-model="{model}"]')


def lane(room: Any, model: str) -> Any:
    return room.locator(f'.room-lane[data-model="{model}"]')


def ask(server: Router, model: str, **script: Any) -> threading.Thread:
    body = {"model": model, "prompt": json.dumps(script)}
    thread = threading.Thread(target=server.post, args=("/v1/completions", body))
    thread.start()
    return thread


# ---------------------------------------------------------------- what is in memory


def test_a_load_a_switch_and_an_eviction(room: Any, server: Router) -> None:
    on_disk(room, "tiny0").get_by_role("button", name="Load tiny0").click()
    expect(card(room, "tiny0").get_by_text("in memory", exact=True)).to_be_visible()
    expect(on_disk(room, "tiny0")).to_have_count(0)
    expect(room.get_by_text("1 of 2 models")).to_be_visible()
    server.load("tiny1")
    expect(card(room, "tiny1")).to_be_visible()
    expect(on_disk(room, "tiny2")).to_contain_text("tiny0 would leave")
    expect(on_disk(room, "tiny2")).to_contain_text(re.compile(r"ready in .*\d m?s · takes .*MB"))
    server.load("tiny2")
    expect(card(room, "tiny2")).to_be_visible()
    expect(card(room, "tiny0")).to_have_count(0)
    expect(lane(room, "tiny0").locator('[data-kind="left"]').first).to_be_attached()
    expect(lane(room, "tiny2").locator('[data-state="loaded"]').last).to_be_attached()
    news = room.get_by_role("region", name="Latest events")
    expect(news).to_contain_text("tiny0 left: its place was needed")
    expect(news).to_contain_text(re.compile(r"tiny2 loaded in [\d.]+ m?s"))


def test_what_happened_before_the_page_was_opened(tab: Tab, server: Router) -> None:
    for model in ("tiny0", "tiny1", "tiny2"):
        server.load(model)
    room = opened(tab, server)
    expect(lane(room, "tiny0").locator('[data-kind="left"]').first).to_be_attached()
    expect(room.get_by_role("region", name="Latest events")).to_contain_text("tiny0 left: its place was needed")


def test_a_load_on_its_way(room: Any, server: Router) -> None:
    expect(on_disk(room, "slow")).to_be_visible()
    server.post("/models/load", {"model": "slow"})
    expect(card(room, "slow").locator(".chip")).to_have_text(re.compile(r"loading [57]\d?%"))
    expect(card(room, "slow").get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("25|50|75"))
    expect(card(room, "slow").locator(".chip")).to_have_text("in memory")


def test_work_slots_and_speed(room: Any, server: Router) -> None:
    threads = [ask(server, "tiny0", tokens=150, delay_s=0.02) for _ in range(2)]
    found = card(room, "tiny0")
    expect(found).to_contain_text("2 of 512 slots")
    expect(found.locator(".room-rate")).to_have_text(re.compile(r"[1-9]\d* tokens/s"))
    expect(room.get_by_role("img", name=re.compile(r"Tokens per second: [1-9]\d* now, [1-9]"))).to_be_visible()
    expect(lane(room, "tiny0").locator('[data-state="busy"]').first).to_be_attached()
    expect(room.locator(".room-plot canvas")).to_be_visible()
    for thread in threads:
        thread.join()
    expect(found).to_contain_text("0 of 512 slots")
    expect(found.locator(".room-rate")).to_be_empty()


def test_who_waits_is_seen(room: Any, server: Router) -> None:
    threads = [ask(server, model, tokens=100, delay_s=0.03) for model in ("tiny0", "tiny1")]
    expect(card(room, "tiny1")).to_contain_text("1 of 512 slots")
    threads.append(ask(server, "tiny2", tokens=1))
    expect(card(room, "tiny2")).to_contain_text("1 waiting")
    expect(card(room, "tiny2").locator(".chip")).to_have_text("waiting for a place")
    expect(card(room, "tiny2").get_by_role("button", name="Unload tiny2")).to_have_count(0)
    for thread in threads:
        thread.join()
    expect(card(room, "tiny2")).not_to_contain_text("waiting")


def test_pin_and_unload(room: Any, server: Router) -> None:
    server.load("tiny0")
    found = card(room, "tiny0")
    found.get_by_role("button", name="Pin tiny0").click()
    expect(found.get_by_role("button", name="Unpin tiny0")).to_have_attribute("aria-pressed", "true")
    expect(found).to_contain_text("never evicted")
    assert server.get("/v1/models/tiny0").json["usage"]["pinned"]
    found.get_by_role("button", name="Unpin tiny0").click()
    eventually(lambda: not server.get("/v1/models/tiny0").json["usage"]["pinned"], "unpinned")
    found.get_by_role("button", name="Unload tiny0").click()
    expect(on_disk(room, "tiny0")).to_be_visible()
    assert server.status("tiny0") == "unloaded"


# ---------------------------------------------------------------- logs, settings


def test_a_log_as_it_comes(room: Any, server: Router) -> None:
    server.load("tiny0")
    card(room, "tiny0").get_by_role("button", name="Log and settings of tiny0").click()
    log = card(room, "tiny0").get_by_role("log")
    expect(log).to_contain_text("loads the model")
    ask(server, "tiny0", tokens=1, lines=["a line of now", HOSTILE]).join()
    expect(log).to_contain_text("a line of now")
    expect(log).to_contain_text(HOSTILE)  # text, not an element
    expect(log.locator("img, b")).to_have_count(0)
    server.load("tiny1")
    card(room, "tiny1").get_by_role("button", name="Log and settings of tiny1").click()
    expect(room.get_by_role("log")).to_have_count(1)  # one connection at a time


def test_settings_wake_nothing(room: Any, server: Router) -> None:
    row = on_disk(room, "tiny2")
    row.get_by_role("button", name="Log and settings of tiny2").click()
    row.get_by_role("tab", name="Log").press("ArrowRight")
    expect(row.get_by_role("tab", name="Settings")).to_be_focused()
    panel = row.get_by_role("tabpanel", name="Settings")
    expect(panel).to_contain_text("--temp 0.3")
    expect(panel).to_contain_text("These apply when it is loaded")
    expect(panel.locator("dt", has_text="temperature")).to_be_visible()
    assert server.status("tiny2") == "unloaded"


# ---------------------------------------------------------------- the hub and the disk


def start_download(room: Any, name: str) -> None:
    field = room.get_by_role("textbox", name="Model of the hub to download")
    field.fill(name)
    field.press("Enter")


def test_a_download_with_its_progress_and_a_removal_that_asks(room: Any, server: Router, hub: FakeHub, models: Path) -> None:
    hub.always[FILE] = fake_hub.slow((models / "tiny0.gguf").stat().st_size / 2)
    start_download(room, NAME)
    coming = room.get_by_role("region", name="Downloads").locator(f'[data-model="{NAME}"]')
    expect(coming).to_contain_text(re.compile(r"\d+ KB of \d+ KB · [1-9]\d?%"))
    coming.get_by_role("button", name=f"Stop the download of {NAME}").click()
    expect(coming).to_have_count(0)
    expect(on_disk(room, NAME)).to_have_count(0)
    del hub.always[FILE]
    start_download(room, NAME)
    row = on_disk(room, NAME)
    row.get_by_role("button", name=f"Delete {NAME}").click()
    question = room.page.get_by_role("dialog", name=f"Delete {NAME}?")
    expect(question).to_contain_text("permanently")
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_have_count(0)
    assert server.get(f"/v1/models/{NAME}").status == 200
    row.get_by_role("button", name=f"Delete {NAME}").click()
    question.get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    assert server.get(f"/v1/models/{NAME}").status == 404
    expect(on_disk(room, "tiny0").get_by_role("button", name=re.compile("^Delete"))).to_have_count(0)  # not ours to remove


def test_a_download_that_cannot_be(room: Any) -> None:
    start_download(room, "not a name")
    expect(room.get_by_role("alert")).to_contain_text("not a name")


# ---------------------------------------------------------------- a real worker


def test_a_real_model(tab: Tab, router: StartRouter, models: Path) -> None:
    server = router("--ctx-size", "1024", "-np", "2", "--top-k", "7", models_dir=models)
    room = opened(tab, server)
    on_disk(room, "tiny0").get_by_role("button", name="Load tiny0").click()
    found = card(room, "tiny0")
    expect(found).to_contain_text("0 of 2 slots")
    server.post("/v1/completions", {"model": "tiny0", "prompt": "the cat", "max_tokens": 90, "ignore_eos": True})
    expect(lane(room, "tiny0").locator('[data-state="busy"]').first).to_be_attached()
    found.get_by_role("button", name="Log and settings of tiny0").click()
    expect(found.get_by_role("log")).to_contain_text(re.compile(r"loaded in [\d.]+ m?s \(model"))
    found.get_by_role("tab", name="Settings").click()
    panel = found.get_by_role("tabpanel", name="Settings")
    expect(panel.locator("dt", has_text="Context of a request").locator("+ dd")).to_have_text("512 tokens")
    expect(panel.locator("dt", has_text="top_k").locator("+ dd")).to_have_text("7")
    expect(panel.locator("dt", has_text="seed").locator("+ dd")).to_have_text("random")


# ---------------------------------------------------------------- accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_that_keeps_people_out(chromium: Any, server: Router, scheme: str) -> None:
    server.load("tiny0")
    server.post("/models/load", {"model": "no-such"})
    tab = Tab(chromium, color_scheme=scheme)
    room = opened(tab, server)
    card(room, "tiny0").get_by_role("button", name="Log and settings of tiny0").click()
    expect(room.get_by_role("log")).to_contain_text("loads the model")
    assert violations(room.page) == []
    room.get_by_role("tab", name="Settings").click()
    expect(room.get_by_role("tabpanel")).to_contain_text("Reported by its worker")
    assert violations(room.page) == []
    tab.close()


def test_on_a_phone(chromium: Any, server: Router) -> None:
    server.load("tiny0")
    tab = Tab(chromium, viewport=PHONE)
    room = opened(tab, server)
    expect(card(room, "tiny0")).to_be_visible()
    wide = "() => [...document.querySelectorAll('.room *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert room.page.evaluate(wide) == 0
    room.get_by_role("button", name="Close models and memory").click()
    expect(room).to_be_hidden()
    tab.close()


def test_a_closed_room_draws_nothing(room: Any, server: Router) -> None:
    server.load("tiny0")
    expect(card(room, "tiny0")).to_be_visible()
    room.get_by_role("button", name="Close models and memory").click()
    server.unload("tiny0")
    room.page.wait_for_timeout(300)
    assert room.page.locator('.room-card[data-model="tiny0"]').count() == 1  # as it was
    room.page.get_by_role("button", name=re.compile("^Models and memory")).click()
    expect(card(room, "tiny0")).to_have_count(0)


def test_a_router_that_is_gone(tab: Tab, router: StartRouter, models: Path) -> None:
    server = router(models_dir=models, is_fake=True)
    room = opened(tab, server)
    server.load("tiny0")
    expect(card(room, "tiny0")).to_be_visible()
    expect(room.get_by_text("cannot be reached")).to_be_hidden()
    server.stop()
    expect(room.get_by_text("The router cannot be reached. This is the last known state.")).to_be_visible()
    expect(card(room, "tiny0")).to_be_visible()
