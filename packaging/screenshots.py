"""Pictures of the page for the documentation, with real answers: `python packaging/screenshots.py` writes docs/screenshots/*.png.

It starts a router with SmolLM2 under three names, and drives Debian's Chromium. Invariant: it leaves no process behind.
"""

import contextlib
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "screenshots"
MAX_BYTES = 200_000
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
IDLE = "body:not(:has([aria-busy=true])):has(.answer)"
PRESETS = """
[smollm2]
model = {model}
tags = small
temp = 0.3
seed = 7
[storyteller]
model = {model}
tags = stories
temp = 0.9
[precise]
model = {model}
tags = code
temp = 0
"""


@contextlib.contextmanager
def router(folder: Path) -> Iterator[str]:
    """Returns its address."""
    model = subprocess.run(
        [sys.executable, ROOT / "packaging" / "demo_model.py"], capture_output=True, text=True, check=True
    ).stdout.strip()
    presets = folder / "presets.ini"
    presets.write_text(PRESETS.format(model=model))
    flags = ("--port", "0", "--models-preset", str(presets), "-c", "4096", "-n", "220")
    environment = {**os.environ, "LLAMA_CACHE": str(folder), "HF_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    process = subprocess.Popen([sys.executable, "-m", "fastrouter", *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert found, "the router has not started"
        yield found[0]
    finally:
        process.terminate()
        process.wait()


class Camera:
    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        page.goto(url)
        page.wait_for_selector(".card")

    def pick(self, model: str) -> None:
        self.page.keyboard.press("Control+k")
        self.page.keyboard.type(model)
        self.page.keyboard.press("Enter")

    def begin(self, text: str) -> None:
        self.page.fill("#composer-text", text)
        self.page.press("#composer-text", "Enter")

    def await_end(self) -> None:
        self.page.wait_for_selector(IDLE, timeout=120_000)
        self.page.wait_for_timeout(400)  # until the colours have changed

    def ask(self, text: str) -> None:
        self.begin(text)
        self.await_end()

    def shoot(self, name: str) -> None:
        path = OUT / f"{name}.png"
        self.page.screenshot(path=path)
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size // 1000} KB")
        assert size < MAX_BYTES, f"{path} is too large"


def take(browser: Any, url: str) -> None:
    seed = "localStorage.setItem('fastrouter.room', '{}')"
    light = browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    light.add_init_script(seed.format("false"))
    camera = Camera(light.new_page(), url)
    camera.pick("smollm2")
    camera.ask("What is a railway switch? One short paragraph.")
    camera.pick("precise")
    camera.ask("Write a Python function that reverses a string.")
    camera.shoot("chat")
    camera.page.keyboard.press("Control+k")
    camera.page.wait_for_timeout(300)
    camera.shoot("models")
    light.close()

    dark = browser.new_context(viewport=WIDE, color_scheme="dark", reduced_motion="reduce")
    dark.add_init_script(seed.format("true"))
    camera = Camera(dark.new_page(), url)
    camera.pick("storyteller")
    camera.ask("Tell a story about a train in three sentences.")
    camera.begin("And now one about a station master.")
    camera.page.wait_for_selector(".room-rate strong")
    camera.page.wait_for_timeout(1500)  # until the curve is drawn
    camera.shoot("room")
    camera.page.emulate_media(color_scheme="light")
    camera.page.wait_for_timeout(400)
    camera.shoot("room-light")
    camera.page.emulate_media(color_scheme="dark")
    camera.await_end()
    camera.page.get_by_role("button", name="Models and memory").first.click()
    camera.page.keyboard.press("Control+Shift+O")
    camera.pick("smollm2")
    camera.page.get_by_role("button", name="Two models side by side").click()
    camera.ask("Give three reasons to travel by train.")
    camera.shoot("compare")
    dark.close()

    phone = browser.new_context(viewport=PHONE, color_scheme="light", reduced_motion="reduce", device_scale_factor=1)
    camera = Camera(phone.new_page(), url)
    camera.pick("smollm2")
    camera.ask("Name three kinds of trains as a list.")
    camera.shoot("phone")
    phone.close()


def main() -> None:
    chromium = runpy.run_path(str(ROOT / "packaging" / "chromium.py"))["find"]()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, router(Path(folder)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
