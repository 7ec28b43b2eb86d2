"""Pictures in the page: how they get in, what becomes of them, what they cost, where they are kept."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PHONE, Tab, violations
from chat_page import CHAT, IDLE, answer_done, ask, is_wider_than_window, let_take, parts_sent, pick
from conftest import Router, StartRouter
from tiny_models import make_llama
from tiny_projectors import GIF, JPEG, LLAVA_TOKENS, make_llava, picture, png

from fastrouter.worker.media.picture_files import size_of

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
FILES = '[aria-label="Files"]'
CHIP = ".composer .picture"
CAPTION = f"{CHIP} figcaption"
LARGE = png(picture(1, 3000, 2000))
SMALL = png(picture(2, 40, 30))
COUNT = "**/v1/chat/completions/input_tokens"
DROP = """([encoded, type, event]) => {
    const bytes = Uint8Array.from(atob(encoded), (each) => each.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], 'picture', { type }));
    const more = { bubbles: true, cancelable: true };
    const makers = {
        drop: () => new DragEvent(event, { dataTransfer: data, ...more }),
        paste: () => new ClipboardEvent(event, { clipboardData: data, ...more }),
    };
    document.querySelector('#composer-text').dispatchEvent(makers[event]());
}"""
STORED = """() => new Promise((resolve) => {
    const opening = indexedDB.open('fastrouter');
    opening.onsuccess = () => {
        const counting = opening.result.transaction('media').objectStore('media').count();
        counting.onsuccess = () => { opening.result.close(); resolve(counting.result); };
    };
})"""
OLD_STORE = """(conversation) => new Promise((resolve) => {
    const opening = indexedDB.open('fastrouter', 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('conversations', { keyPath: 'id' });
    opening.onsuccess = () => {
        const putting = opening.result.transaction('conversations', 'readwrite').objectStore('conversations').put(conversation);
        putting.onsuccess = () => { opening.result.close(); resolve(); };
    };
})"""
KEEP_STREAMS = """
    window.streams = [];
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        const stream = await ask(wanted);
        window.streams.push(stream);
        return stream;
    };
"""
NO_DEVICE = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('none', 'NotFoundError'); };"


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("sees", "calm"):
        (folder / f"{name}.gguf").write_text("{}")
    return module_router(models_dir=folder, is_fake=True)


@pytest.fixture(scope="module")
def real(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("seeing")
    (folder / "sees").mkdir()
    make_llama(folder / "sees" / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_llava(folder / "sees" / "mmproj-sees.gguf")
    return module_router(models_dir=folder)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Any:
    return opened(tab, scripted)


def opened(tab: Tab, scripted: Router) -> Any:
    let_take(tab.page, "sees", "image")
    page = tab.open(scripted)
    page.wait_for_selector(".card")
    pick(page, "sees")
    answer_done(page)
    return page


def attach(page: Any, folder: Path, **contents: bytes) -> None:
    paths = [folder / name.replace("_", ".") for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    page.set_input_files(FILES, paths)


def read(part: dict[str, Any]) -> tuple[str, bytes]:
    """(type, content) of a picture in a request."""
    kind, _, encoded = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    return kind, base64.b64decode(encoded)


def shown(page: Any, caption: str) -> None:
    page.locator("figcaption", has_text=caption).last.wait_for()


def noise(side: int) -> bytes:
    return png(np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8))


def turned(jpeg: bytes) -> bytes:
    """Its EXIF says that it lies on its side, as photos of phones do."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0) + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


# ---------------------------------------------------------------- with a model


def test_a_picture_has_the_size_that_the_model_uses_and_shows_its_cost(tab: Tab, real: Router, tmp_path: Path) -> None:
    page = tab.open(real)
    page.wait_for_selector(".card")
    attach(page, tmp_path, photo_png=LARGE)
    shown(page, "84 × 56")  # of 3,000 x 2,000: the projector makes a square of 56 x 56
    first, text = parts_sent(page, "the cat")
    kind, content = read(first)
    assert (kind, size_of(content), text) == ("image/png", (84, 56), {"type": "text", "text": "the cat"})
    shown(page, f"84 × 56, {LLAVA_TOKENS} tokens")
    with page.expect_request(CHAT) as request:
        ask(page, "is")
    assert request.value.post_data_json["messages"][0]["content"][0] == first
    page.reload()
    page.locator(".conversation").click()
    shown(page, f"84 × 56, {LLAVA_TOKENS} tokens")
    page.wait_for_function("() => document.querySelector('.question img').naturalWidth === 84")


# ---------------------------------------------------------------- what becomes of a file


def test_files_become_what_a_model_can_use(page: Any, tmp_path: Path) -> None:
    noisy = {"noise_png": noise(900), "more_png": noise(1500)}
    attach(page, tmp_path, large_png=LARGE, small_png=SMALL, turned_jpg=turned(JPEG), moving_gif=GIF, **noisy)
    page.locator(CHIP).nth(5).wait_for()
    captions = ["1,568 × 1,045", "40 × 30", "16 × 24", "24 × 16", "900 × 900", "1,125 × 1,125"]
    assert page.locator(CAPTION).all_inner_texts() == captions
    found = [read(part) for part in parts_sent(page)]
    assert [kind for kind, _ in found] == ["image/png", "image/png", "image/jpeg", "image/png", "image/jpeg", "image/jpeg"]
    assert [size_of(content) for _, content in found] == [(1568, 1045), (40, 30), (16, 24), (24, 16), (900, 900), (1125, 1125)]
    assert found[1][1] == SMALL
    assert b"Exif" not in found[2][1]
    assert max(len(content) for _, content in found) <= 1_000_000


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(page: Any, event: str) -> None:
    page.evaluate(DROP, [base64.b64encode(SMALL).decode(), "image/png", event])
    shown(page, "40 × 30")
    [part] = parts_sent(page)
    assert read(part) == ("image/png", SMALL)
    assert page.locator(".conversation").inner_text() == "Picture"


def test_what_is_not_a_picture_is_refused(page: Any, tmp_path: Path) -> None:
    attach(page, tmp_path, broken_png=SMALL[:30], odd_jpg=b"hello")
    page.get_by_text("broken.png is not a picture that this browser can read").wait_for()
    page.get_by_text("odd.jpg is not a picture that this browser can read").wait_for()
    assert page.locator(CHIP).count() == 0


def test_all_pictures_of_a_conversation_have_a_limit(page: Any, tmp_path: Path) -> None:
    attach(page, tmp_path, **{f"noise{number}_png": noise(540) for number in range(5)})  # 0.9 MB each, as PNG
    page.locator(CHIP).nth(4).wait_for()
    parts_sent(page)
    attach(page, tmp_path, one_png=noise(540), two_png=noise(540))
    page.get_by_text("two.png is not attached: the pictures and sounds of a conversation may have 5.5 MB. Begin a new chat").wait_for()
    assert page.locator(CHIP).count() == 1


def test_pictures_are_removed_with_the_keyboard(page: Any, tmp_path: Path) -> None:
    attach(page, tmp_path, one_png=SMALL, two_png=SMALL)
    page.locator(CHIP).nth(1).wait_for()
    page.get_by_role("button", name="Remove picture 1").focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Remove picture 2").count() == page.locator(CHIP).count() == 1
    assert page.evaluate("document.activeElement.id") == "composer-text"


def test_the_cost_is_known_before_if_the_server_can_tell(page: Any, tmp_path: Path, scripted: Router) -> None:
    def count(route: Any) -> None:
        content = route.request.post_data_json["messages"][0]["content"]
        route.fulfill(json={"input_tokens": 5 + 1024 * sum(part["type"] == "image_url" for part in content)})

    page.route(COUNT, count)
    attach(page, tmp_path, one_png=SMALL)
    shown(page, "40 × 30")
    assert page.locator(CAPTION).inner_text() == "40 × 30"  # the model is not in memory
    assert parts_sent(page)
    scripted.load("sees")
    page.wait_for_selector(".picker [data-state=loaded]")
    attach(page, tmp_path, one_png=SMALL)
    shown(page, "40 × 30, 1,024 tokens")
    scripted.unload("sees")


# ---------------------------------------------------------------- models that do not see


def test_a_model_that_does_not_see_gets_a_note(page: Any, tmp_path: Path) -> None:
    attach(page, tmp_path, one_png=SMALL)
    page.locator(CHIP).wait_for()
    assert page.locator(".composer-note").is_hidden()
    pick(page, "calm")
    page.get_by_text("calm cannot see pictures: it gets a note in their place.").wait_for()
    assert page.get_by_role("button", name="Take a picture").is_hidden()
    assert parts_sent(page, "what is it?") == [
        {"type": "text", "text": "[A picture, which this model cannot see.]"},
        {"type": "text", "text": "what is it?"},
    ]
    assert page.locator(".composer-note").is_visible()
    pick(page, "sees")
    page.get_by_role("button", name="Take a picture").wait_for()
    with page.expect_request(CHAT) as request:
        ask(page, "and now?")
    assert read(request.value.post_data_json["messages"][0]["content"][0]) == ("image/png", SMALL)


# ---------------------------------------------------------------- the camera


def test_a_picture_is_taken_with_the_camera(tab: Tab, scripted: Router) -> None:
    tab.page.add_init_script(KEEP_STREAMS)
    page = opened(tab, scripted)
    page.get_by_role("button", name="Take a picture").press("Enter")
    dialog = page.get_by_role("dialog", name="Take a picture")
    take = dialog.get_by_role("button", name="Take the picture")
    page.wait_for_function("() => document.activeElement.textContent === 'Take the picture'")
    assert violations(page) == []
    take.press("Enter")
    dialog.wait_for(state="detached")
    page.locator(CHIP).wait_for()
    assert page.evaluate("streams.flatMap((stream) => stream.getTracks()).map((track) => track.readyState)") == ["ended"]
    [part] = parts_sent(page)
    kind, content = read(part)
    assert kind == "image/jpeg"
    assert min(size_of(content) or (0, 0)) > 100


def test_a_device_without_a_camera_says_so(tab: Tab, scripted: Router) -> None:
    tab.page.add_init_script(NO_DEVICE)
    page = opened(tab, scripted)
    page.get_by_role("button", name="Take a picture").click()
    page.get_by_text("This device has no camera").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert page.locator(CHIP).count() == 0


def test_a_phone_uses_its_own_camera(chromium: Any, scripted: Router) -> None:
    held = Tab(chromium, viewport=PHONE, has_touch=True, is_mobile=True)
    try:
        page = opened(held, scripted)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Take a picture").click()
        assert chooser.value.element.get_attribute("capture") == "environment"
        chooser.value.set_files({"name": "wide.png", "mimeType": "image/png", "buffer": png(picture(1, 1400, 90))})
        shown(page, "1,400 × 90")
        assert violations(page) == []
        assert not is_wider_than_window(page)
        parts_sent(page, "what is it?")
        assert violations(page) == []
        assert not is_wider_than_window(page)
    finally:
        held.close()


# ---------------------------------------------------------------- kept


def test_pictures_are_exported_imported_and_deleted(page: Any, tmp_path: Path) -> None:
    attach(page, tmp_path, one_png=SMALL)
    page.locator(CHIP).wait_for()
    parts_sent(page, "what is it?")
    page.locator(".conversations li .icon-button").first.click()
    with page.expect_download() as download:
        page.locator('.menu [data-act="json"]').click()
    content = json.loads(Path(download.value.path()).read_text())
    [question] = [each for each in content["conversations"][0]["messages"].values() if each["role"] == "user"]
    assert question["images"] == ["data:image/png;base64," + base64.b64encode(SMALL).decode()]
    question["images"] += ["data:image/svg+xml;base64,PHN2Zy8+", "data:image/png;base64,%", "http://localhost/a.png", 7]
    (tmp_path / "in.json").write_text(json.dumps(content))
    page.set_input_files('[aria-label="File to import"]', tmp_path / "in.json")
    page.locator(".conversation >> nth=1").wait_for()
    assert page.evaluate(STORED) == 2
    page.reload()
    page.locator(".conversation >> nth=1").click()
    page.wait_for_function("() => document.querySelector('.question img')?.naturalWidth === 40")
    assert page.locator(".question img").count() == 1
    for left in (1, 0):
        page.locator(".conversations li .icon-button").first.click()
        page.locator('.menu [data-act="delete"]').click()
        page.get_by_role("button", name="Delete", exact=True).click()
        page.wait_for_function(f"() => document.querySelectorAll('.conversation').length === {left}")
        page.wait_for_function(f"async () => (await ({STORED})()) === {left}")


def test_pictures_of_older_pages_are_moved(tab: Tab, scripted: Router) -> None:
    url = "data:image/png;base64," + base64.b64encode(SMALL).decode()
    message = {"id": "m", "parent": None, "order": 0, "created": 1, "role": "user", "content": "old", "images": [url, "odd"]}
    old = {"id": "c", "title": "old", "created": 1, "updated": 1, "model": None, "system": "", "sampling": {}, "isNamed": True}
    page = tab.open(scripted, "/icon.svg")
    page.evaluate(OLD_STORE, {**old, "messages": {"m": message}, "chosen": {"": "m"}})
    page = opened(tab, scripted)
    page.locator(".conversation").click()
    page.wait_for_function("() => document.querySelector('.question img')?.naturalWidth === 40")
    assert page.evaluate(STORED) == page.locator(".question img").count() == 1


def test_an_edited_question_keeps_its_picture(page: Any, tmp_path: Path) -> None:
    attach(page, tmp_path, one_png=SMALL)
    page.locator(CHIP).wait_for()
    parts_sent(page, "what is it?")
    page.get_by_role("button", name="Edit and ask again").click()
    page.get_by_label("Edited message").fill("where is it?")
    with page.expect_request(CHAT) as request:
        page.get_by_role("button", name="Ask again").click()
    page.wait_for_selector(IDLE)
    first, text = request.value.post_data_json["messages"][-1]["content"]
    assert (read(first), text["text"]) == (("image/png", SMALL), "where is it?")


def test_pictures_are_accessible(page: Any, tmp_path: Path) -> None:
    attach(page, tmp_path, one_png=SMALL, two_png=LARGE)
    page.locator(CHIP).nth(1).wait_for()
    assert violations(page) == []
    parts_sent(page, "what is it?")
    assert violations(page) == []
