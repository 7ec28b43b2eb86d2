"""Sounds in the page, for models that hear: recorded, attached, played, sent. The model is scripted; the requests are OpenAI's."""

import base64
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Tab, violations
from chat_page import answer_done, let_take, parts_sent, pick
from conftest import Router, StartRouter

FILES = '[aria-label="Files"]'
CHIP = ".composer .sound"


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("sounds")
    for name in ("hears", "calm"):
        (folder / f"{name}.gguf").write_text("{}")
    return module_router(models_dir=folder, is_fake=True)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Any:
    let_take(tab.page, "hears", "audio")
    opened = tab.open(scripted)
    opened.wait_for_selector(".card")
    pick(opened, "hears")
    answer_done(opened)
    return opened


def wav(seconds: float, rate: int = 8000, channels: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(channels)
        written.setsampwidth(2)
        written.setframerate(rate)
        tone = (8000 * np.sin(np.arange(int(seconds * rate)) * 440 * 2 * np.pi / rate)).astype("<i2")
        written.writeframes(np.repeat(tone, channels).tobytes())
    return file.getvalue()


def check(part: dict[str, Any], least_s: float, most_s: float) -> None:
    """A WAV file of 16 kHz with one channel, which is not silent."""
    assert part["type"] == "input_audio"
    assert part["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"]))) as found:
        assert (found.getnchannels(), found.getsampwidth(), found.getframerate()) == (1, 2, 16_000)
        assert least_s <= found.getnframes() / 16_000 <= most_s
        assert np.abs(np.frombuffer(found.readframes(found.getnframes()), "<i2")).max() > 1000


def test_a_sound_is_recorded_played_and_sent(page: Any) -> None:
    page.get_by_role("button", name="Record a sound").press("Enter")
    stop = page.get_by_role("button", name="Stop recording")
    stop.wait_for()
    assert stop.get_attribute("aria-pressed") == "true"
    page.wait_for_timeout(1200)  # the device of the test beeps once a second
    stop.press("Enter")
    page.locator(f"{CHIP} figcaption").wait_for()
    page.get_by_role("button", name="Record a sound").wait_for()
    assert violations(page) == []
    [part] = parts_sent(page)
    check(part, 0.5, 60.0)
    page.reload()
    page.locator(".conversation").click()
    page.wait_for_function("() => document.querySelector('.question audio')?.duration > 0.5")
    assert violations(page) == []


def test_a_file_becomes_a_wave_file(page: Any, tmp_path: Path) -> None:
    (tmp_path / "tone.wav").write_bytes(wav(1.5))
    page.set_input_files(FILES, tmp_path / "tone.wav")
    page.locator(f"{CHIP} figcaption", has_text="1.50 s").wait_for()
    part, text = parts_sent(page, "what is it?")
    check(part, 1.4, 1.6)
    assert text["text"] == "what is it?"
    page.wait_for_function("() => document.querySelector('.question audio')?.duration > 1.4")
    pick(page, "calm")
    page.get_by_text("calm cannot hear sounds: it gets a note in their place.").wait_for()
    assert page.get_by_role("button", name="Record a sound").is_hidden()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("long.wav", wav(121, 8000, 1), "long.wav is longer than 120 seconds"),
        ("odd.wav", b"RIFF", "odd.wav is not a sound that this browser can read"),
    ],
    ids=["long", "odd"],
)
def test_other_sounds_are_refused(page: Any, tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    page.set_input_files(FILES, tmp_path / name)
    page.get_by_text(why).wait_for()
    assert page.locator(CHIP).count() == 0


def test_models_that_do_not_hear_refuse_sounds(page: Any, tmp_path: Path) -> None:
    pick(page, "calm")
    (tmp_path / "tone.wav").write_bytes(wav(0.5))
    page.set_input_files(FILES, tmp_path / "tone.wav")
    page.get_by_text("calm cannot hear sounds: choose a model that can").wait_for()
