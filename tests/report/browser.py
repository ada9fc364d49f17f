"""A headless Chromium for tests, driven as its own developer tools drive it: real clicks and keys.

It speaks over two pipes, so that it needs no port and no library: each message is one JSON object
that ends with a zero byte (--remote-debugging-pipe: Chromium reads descriptor 3 and writes 4).
"""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: apt-get install chromium"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE_S = 60
QUIET = ("data:", "about:")
"""addresses that nothing is fetched for"""
DRAWN = """new Promise((done) => {
  const wait = () => {
    const places = Array.from(document.querySelectorAll(".chart"));
    const drawn = places.every((place) => place.querySelector("svg"));
    drawn ? done(places.length) : setTimeout(wait, 20);
  };
  wait();
})"""


class Page:
    """One page, what it logged and what it asked for."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing
        self.said: list[str] = []
        self.requests: list[str] = []
        self.session: str | None = None
        self._last = self._loads = 0
        self._unread = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one command; events on the way are noted."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while (answer := self._next(method)).get("id") != self._last:
            pass
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def _next(self, waiting: str) -> dict[str, Any]:
        """One message, noted if it is an event."""
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self.reading], [], [], PATIENCE_S)
            assert ready, f"Chromium said nothing for {PATIENCE_S} s: {waiting}"
            piece = os.read(self.reading, 1 << 20)
            assert piece, f"Chromium ended: {waiting}"
            self._unread += piece
        text, _zero, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, about: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled":
            self.said.append(str([part.get("value") for part in about["args"]]))
        elif event == "Runtime.exceptionThrown":
            self.said.append(json.dumps(about["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.said.append(about["entry"]["text"])
        elif event == "Page.javascriptDialogOpening":
            self.said.append(f"dialog: {about['message']}")
        elif event == "Page.loadEventFired":
            self._loads += 1
        elif event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def look(self, width: int = 1200, height: int = 900, *, dark: bool = False) -> None:
        """Size of the window, and what the reader's system prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path) -> int:
        """Load a file until all its charts are drawn; how many there are."""
        before = self._loads
        answer = self.call("Page.navigate", url=file.resolve().as_uri())
        assert "errorText" not in answer, answer
        while self._loads == before:
            self._next("load")
        return int(self.run(DRAWN))

    def run(self, expression: str) -> Any:
        """The value of some JavaScript, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, expression: str) -> None:
        """Press and release the mouse in the middle of an element, once it is in sight."""
        middle = f"""(() => {{
          const element = {expression};
          element.scrollIntoView({{block: "center", inline: "center"}});
          const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = self.run(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        for letter in text:
            for kind in ("keyDown", "keyUp"):
                typed = {"text": letter} if kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=letter, **typed)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key that is not a letter, such as Tab (9) or Enter (13, "\\r")."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self) -> bytes:
        """The whole page as png."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def on_paper(self) -> bytes:
        """The page as pdf, on A4."""
        answer = self.call(
            "Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69
        )
        return base64.b64decode(answer["data"])

    def fetched(self, file: Path) -> list[str]:
        """Every address that was asked for, but the page itself and what is inside it."""
        own = file.resolve().as_uri()
        return [url for url in self.requests if url != own and not url.startswith(QUIET)]


@contextmanager
def a_page(profile: Path) -> Iterator[Page]:
    """A Chromium of its own with one page."""
    assert CHROMIUM is not None
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    # The shell puts the pipes' ends where Chromium expects them; sh knows one digit only.
    command = ["bash", "-c", f'exec "$@" 3<&{in_read} 4>&{out_write}', "bash"]
    command += [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(
        command, pass_fds=(in_read, out_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(in_read)
    os.close(out_write)
    page = None
    try:
        page = Page(out_read, in_write)
        yield page
        page.session = None
        page.call("Browser.close")
        browser.wait(timeout=20)
    finally:
        if browser.poll() is None:
            browser.kill()
            browser.wait()
        if page is not None:
            os.close(page.reading)
            os.close(page.writing)
