"""A server and a browser to look at it with, for the tests of the studio."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

SOURCE = Path(__file__).parents[2] / "src"
CHROMIUM = "/usr/bin/chromium"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run".split()
PATIENCE = 60.0  # seconds until a test gives up
DROP = """([data, name, type]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], name, { type }));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
    }
}"""


@contextmanager
def serving(*options: str, port: int = 0) -> Iterator[str]:
    """The address of a server that is ready."""
    command = [sys.executable, "-m", "fewstep", "serve", "--port", str(port), *options]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        until(lambda: httpx2.get(f"{url}/readyz").status_code == 200)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(true: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What ``true`` returns as soon as it is true."""
    deadline = time.monotonic() + patience
    while not (value := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.03)
    return value


class Studio:
    """The studio as a person sees it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url, self.complaints = page, url, []
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text) if "Content Security Policy" in message.text else None)

    def open(self, room: str = "create") -> Studio:
        self.page.goto(f"{self.url}/#{room}")
        self.page.locator("html[data-ready]").wait_for()
        return self

    def run(self, code: str, *arguments: Any) -> Any:
        return self.page.evaluate(code, *arguments)

    def write(self, prompt: str) -> None:
        """Give a prompt, and wait until the picture is finished."""
        self.page.locator("#prompt").fill(prompt)
        self.finished(prompt)

    def finished(self, prompt: str, **facts: Any) -> dict[str, str]:
        """The facts of the picture as soon as it is the full one of ``prompt``."""
        wanted = {"prompt": prompt, "final": "true", **{name: str(value) for name, value in facts.items()}}
        return until(lambda: wanted.items() <= self.shown().items() and self.shown())

    def shown(self) -> dict[str, str]:
        """What the picture says of itself."""
        return dict(self.run("() => ({...document.getElementById('picture').dataset})"))

    def keys(self, *keys: str) -> None:
        """Press keys that are no text."""
        self.run("() => document.activeElement.blur()")
        for key in keys:
            self.page.keyboard.press(key)

    def pixels(self, canvas: str, x: float, y: float) -> list[int]:
        """The colour at a place of a canvas, both as shares of its sides."""
        code = """([id, x, y]) => {
            const canvas = document.getElementById(id);
            return [...canvas.getContext("2d").getImageData(x * (canvas.width - 1), y * (canvas.height - 1), 1, 1).data].slice(0, 3);
        }"""
        return list(self.run(code, [canvas, x, y]))


def nearest(pixel: list[int], colours: dict[str, tuple[int, int, int]]) -> str:
    """The name of the colour that ``pixel`` is nearest to."""
    return min(colours, key=lambda name: sum((a - b) ** 2 for a, b in zip(pixel, colours[name], strict=True)))


def generated(url: str, **wanted: Any) -> bytes:
    """A picture that the server makes."""
    answer = httpx2.post(f"{url}/v1/generate", json=wanted, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.content


def drop(studio: Studio, content: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
    """Drop a file on the page."""
    studio.run(DROP, [base64.b64encode(content).decode(), name, kind])
