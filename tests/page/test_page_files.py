"""Text files and long pastes that are attached to a question: what is taken, what is refused, what is sent and kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, Tab, violations
from chat_page import CHAT, IDLE, TEXT, ask, delta, is_wider_than_window, pick, sse
from conftest import Router, StartRouter

PASTE = """(text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData('text/plain', text);
    const event = new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true });
    return document.querySelector('#composer-text').dispatchEvent(event);
}"""  # false: what the browser would do is prevented
DROP = """([name, text]) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([text], name));
    const event = new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true });
    return document.querySelector('#thread').dispatchEvent(event);
}"""
FILES = '[aria-label="Files"]'
LINES = "\n".join(f"line {number}" for number in range(400))


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("files")
    (folder / "calm.gguf").write_text("{}")
    return module_router(models_dir=folder, is_fake=True)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Any:
    opened = tab.open(scripted)
    opened.wait_for_selector(".card")
    pick(opened, "calm")
    opened.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=sse(delta(content="done"), "[DONE]")))
    return opened


def sent(page: Any) -> Any:
    """The content of the last message of the request that Enter sends."""
    with page.expect_request(CHAT) as request:
        page.press(TEXT, "Enter")
    page.wait_for_selector(IDLE)
    return request.value.post_data_json["messages"][-1]["content"]


def part(name: str, text: str) -> dict[str, str]:
    return {"type": "text", "text": f"\n\n--- File: {name} ---\n{text}"}


def write(folder: Path, **contents: bytes) -> list[Path]:
    paths = [folder / name.replace("_", ".") for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    return paths


def test_a_long_paste_becomes_a_file(page: Any) -> None:
    assert page.evaluate(PASTE, "x" * 2500)
    assert not page.evaluate(PASTE, LINES)
    assert not page.evaluate(PASTE, "x" * 5000)
    assert page.locator(".composer .file").all_inner_texts() == ["Pasted text, 3 KB", "Pasted text 2, 5 KB"]
    page.get_by_role("button", name="Remove Pasted text 2").click()
    page.fill(TEXT, "Summarise this:")
    assert sent(page) == [part("Pasted text", LINES), {"type": "text", "text": "Summarise this:"}]
    assert page.locator(".composer .file").count() == 0
    shown = page.locator(".question .file")
    assert shown.inner_text() == "Pasted text, 3 KB"
    shown.locator("summary").click()
    shown.locator("pre").wait_for()
    assert shown.locator("pre").inner_text() == LINES
    assert page.locator(".bubble").inner_text() == "Summarise this:"


def test_a_pasted_file_can_be_put_into_the_text(page: Any) -> None:
    page.fill(TEXT, "Read this:")
    assert not page.evaluate(PASTE, LINES)
    page.get_by_role("button", name="Pasted text, 3 KB").click()
    assert page.input_value(TEXT) == f"Read this:\n\n{LINES}"
    assert page.locator(".composer .file").count() == 0


def test_how_long_a_paste_may_be_is_a_setting(page: Any) -> None:
    page.get_by_role("button", name="Settings of this conversation").click()
    dialog = page.get_by_role("dialog", name="Settings of this conversation")
    dialog.locator("summary", has_text="This browser").click()
    assert dialog.get_by_label("Long pastes").input_value() == "2500"
    dialog.get_by_label("Long pastes").fill("0")
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="detached")
    assert page.evaluate(PASTE, "x" * 100_000)
    page.reload()
    page.wait_for_selector(".card")
    assert page.evaluate(PASTE, "x" * 100_000)


def test_the_router_may_say_how_long_a_paste_may_be(router: StartRouter, tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "calm.gguf").write_text("{}")
    served = router("--ui-config", '{"pasteLongTextToFileLen": 10}', models_dir=tmp_path, is_fake=True)
    page = tab.open(served)
    page.wait_for_selector(".card")
    page.wait_for_function(f"() => !({PASTE})('x'.repeat(11))")
    assert page.evaluate(PASTE, "x" * 10)


def test_text_files_of_any_encoding_are_attached(page: Any, tmp_path: Path) -> None:
    page.set_input_files(
        FILES,
        write(
            tmp_path,
            utf8_txt="Grüße 🙂\n".encode(),
            marked_txt="Grüße".encode("utf-8-sig"),
            old_txt="Grüße".encode("latin-1"),
            wide_txt="Grüße".encode("utf-16"),
            drawing_svg=b"<svg></svg>",
        ),
    )
    page.locator(".composer .file >> nth=4").wait_for()
    texts = {"utf8.txt": "Grüße 🙂\n", "marked.txt": "Grüße", "old.txt": "Grüße", "wide.txt": "Grüße", "drawing.svg": "<svg></svg>"}
    assert sent(page) == [part(name, text) for name, text in texts.items()]
    assert page.locator(".conversation").inner_text() == "utf8.txt, marked.txt, old.txt, wide.txt, drawing.svg"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("model.gguf", b"GGUF\x03\x00\x00\x00", "model.gguf is not a text file"),
        ("page.pdf", b"%PDF-1.7\n\xe2\xe3\xcf\xd3\n\x01\x02", "page.pdf is not a text file"),
        ("large.txt", b"x" * 1_000_001, "large.txt is larger than 1.0 MB"),
        ("empty.txt", b" \n", "empty.txt is empty"),
        ("dot.png", b"\x89PNG", "calm cannot see pictures"),
    ],
)
def test_other_files_are_refused_with_the_reason(page: Any, tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    page.set_input_files(FILES, tmp_path / name)
    page.get_by_text(why).wait_for()
    assert page.locator(".composer .file, .composer .picture").count() == 0
    assert page.locator(".send").first.is_disabled()


def test_all_files_of_a_question_have_a_limit(page: Any, tmp_path: Path) -> None:
    page.set_input_files(FILES, write(tmp_path, **{f"part{number}_txt": b"x" * 900_000 for number in range(5)}))
    page.get_by_text("part4.txt is not attached: all files of a question may have 4.0 MB").wait_for()
    assert page.locator(".composer .file").count() == 4


def test_a_file_is_dropped_anywhere_on_the_page(page: Any) -> None:
    assert not page.evaluate(DROP, ["notes.md", "# Notes"])
    page.locator(".composer .file", has_text="notes.md, 7 bytes").wait_for()
    assert sent(page) == [part("notes.md", "# Notes")]


def test_files_stay_with_their_question(page: Any, tmp_path: Path) -> None:
    page.set_input_files(FILES, write(tmp_path, data_json=b'{"a":1}'))
    page.locator(".composer .file").wait_for()
    page.fill(TEXT, "What is it?")
    sent(page)
    page.reload()
    page.locator(".conversation").click()
    page.locator(".question .file", has_text="data.json, 7 bytes").wait_for()
    page.get_by_role("button", name="Edit and ask again").click()
    page.get_by_label("Edited message").fill("And now?")
    with page.expect_request(CHAT) as request:
        page.get_by_role("button", name="Ask again").click()
    assert request.value.post_data_json["messages"][-1]["content"] == [part("data.json", '{"a":1}'), {"type": "text", "text": "And now?"}]
    page.wait_for_selector(IDLE)


def test_files_are_exported_and_imported(page: Any, tmp_path: Path) -> None:
    page.set_input_files(FILES, write(tmp_path, notes_txt=b"remember"))
    page.locator(".composer .file").wait_for()
    page.fill(TEXT, "What is it?")
    sent(page)
    exported = {}
    for act in ("markdown", "json"):
        page.locator(".conversations li .icon-button").first.click()
        with page.expect_download() as download:
            page.locator(f'.menu [data-act="{act}"]').click()
        exported[act] = Path(download.value.path()).read_text()
    assert "What is it?\n\nFile `notes.txt`:\n\n```\nremember\n```" in exported["markdown"]
    content = json.loads(exported["json"])
    [question] = [each for each in content["conversations"][0]["messages"].values() if each["role"] == "user"]
    assert question["files"] == [{"name": "notes.txt", "text": "remember"}]
    question["files"] += [{"name": "a\nb", "text": "two lines"}, {"name": "no text"}, "none"]
    (tmp_path / "in.json").write_text(json.dumps(content))
    page.set_input_files('[aria-label="File to import"]', tmp_path / "in.json")
    page.locator(".conversation >> nth=1").wait_for()
    page.reload()
    page.locator(".conversation >> nth=0").wait_for()
    found = set()
    for row in page.locator(".conversation").all():
        row.click()
        page.locator(".question .file").first.wait_for()
        found.add(tuple(page.locator(".question .file").all_inner_texts()))
    assert found == {("notes.txt, 8 bytes",), ("notes.txt, 8 bytes", "a b, 9 bytes")}


def test_files_are_accessible_and_fit_on_a_phone(chromium: Any, scripted: Router) -> None:
    held = Tab(chromium, viewport=PHONE, has_touch=True, is_mobile=True)
    try:
        page = held.open(scripted)
        page.wait_for_selector(".card")
        pick(page, "calm")
        for name in ("a_name_as_long_as_they_come_without_any_space_in_it_" * 3, "short"):
            assert not page.evaluate(DROP, [name, "x" * 300])
        page.locator(".composer .file >> nth=1").wait_for()
        assert violations(page) == []
        assert not is_wider_than_window(page)
        ask(page, "hello")
        page.locator(".question summary").first.click()
        assert violations(page) == []
        assert not is_wider_than_window(page)
    finally:
        held.close()
