"""A headless Chromium that says what a page does, by DevTools' protocol over a pipe, which takes no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

INSTALLED = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK = 360, 1280
"""Widths of windows in CSS pixels."""
SECONDS = 60
"""How long an answer may take."""
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-sync", "--disable-background-networking", "--disable-component-update"),
    "--proxy-server=127.0.0.1:9",  # nobody listens there: what a page asks of the network is seen, and fails
)

SEEN = """
(async () => {
  while (!(%s)) await new Promise(done => setTimeout(done, 50));
  document.querySelectorAll("details").forEach(fold => { fold.open = true });
  const images = [...document.images], body = document.body, width = %d;
  images.forEach(image => { image.loading = "eager" });
  const broken = [];
  for (const image of images) await image.decode().catch(() => broken.push(image.src));
  const whole = node => node === body || node.contains(document.querySelector("h1"));  // all that there is to read
  const beside = node => {  // scrolls by itself, or lies beside the window until it is called
    for (; node && !whole(node); node = node.parentElement) {
      const style = getComputedStyle(node);
      if (["auto", "scroll"].includes(style.overflowX) || style.position === "fixed") return true;
    }
    return false;
  };
  const drawn = node => { const box = node.getBoundingClientRect(); return box.width > 0 && box.height > 0 };
  const named = node => node.outerHTML.slice(0, 100);
  const figures = [...document.querySelectorAll("svg[aria-label]")];
  const parts = colour => (colour.match(/^rgba?\\((.*)\\)$/) || [0, ""])[1].split(",").map(Number);
  const light = colour => {  // relative luminance, WCAG 2
    const [r, g, b] = parts(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = node => {  // of the nearest that is not seen through
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor, opaque = parts(colour)[3];
      if (opaque === undefined || opaque > 0.9) return light(colour);
    }
    return 1;
  };
  const contrast = node => {
    const [low, high] = [light(getComputedStyle(node).color), ground(node)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return {
    ground: ground(body),
    faint: [...body.querySelectorAll("h1, h2, h3, p, li, td, th, summary")]
      .filter(node => drawn(node) && node.textContent.trim() && contrast(node) < 3).map(named),
    title: document.title,
    scrolls: Math.max(document.documentElement.scrollWidth, body.scrollWidth) - width,
    wide: [...body.querySelectorAll("*")]
      .filter(node => drawn(node) && node.getBoundingClientRect().right > width + 1 && !beside(node)).map(named),
    images: images.length,
    broken: broken.concat(images.filter(image => !image.naturalWidth).map(image => image.src)),
    figures: figures.length,
    empty: figures.filter(f => !drawn(f) || !f.getBBox().width || !f.getBBox().height).map(named),
    colours: [...new Set([...document.querySelectorAll("svg path")].map(p => getComputedStyle(p).stroke))],
    links: [...new Set([...document.querySelectorAll("a[href], area[href]")].map(link => link.href))],
    anchors: [...document.querySelectorAll("[id], a[name]")].map(node => node.id || node.name),
  };
})()
"""


@dataclass(frozen=True)
class Seen:
    """What a browser found on a page, and what it asked for meanwhile."""

    page: Path
    width: int
    requests: tuple[str, ...]
    errors: tuple[str, ...]
    found: dict[str, Any]

    @property
    def faults(self) -> list[str]:
        """What no page may have: requests that leave the files, errors, what is wider than the window, no picture."""
        left = [url for url in self.requests if urlsplit(url).scheme not in ("file", "data", "blob")]
        wide = [f"is {self.found['scrolls']} pixels too wide"] if self.found["scrolls"] > 0 else []
        return [
            *(f"asks for {url}" for url in left),
            *self.errors,
            *wide,
            *(f"cut off: {node}" for node in self.found["wide"][:3]),
            *(f"no picture: {url[:200]}" for url in self.found["broken"]),
            *(f"empty: {node}" for node in self.found["empty"]),
            *(f"hardly to be read: {node}" for node in self.found["faint"][:3]),
            *([] if self.found["title"] else ["has no title"]),
        ]


class Browser:
    """One that has been started: see `started`."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process, self._to, self._back = process, to, back
        self._held, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask something of the page and return the answer; events that come before it are kept."""
        return self._call(method, self._session, **parameters)

    def look(self, page: Path, width: int = DESK, *, dark: bool = False, query: str = "", until: str = "true") -> Seen:
        """Open a page in a window of some width and say what it did; its folds are opened first.

        Args:
            query: what comes after the address, for example `?q=word`.
            until: an expression of JavaScript for whose truth is waited first.
        """
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        failed = self.call("Page.navigate", url=page.as_uri() + query).get("errorText")
        assert not failed, f"{page}: {failed}"
        self._wait("Page.loadEventFired")
        seen = SEEN % (until, width)
        answer = self.call("Runtime.evaluate", expression=seen, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return Seen(page, width, tuple(self._requests()), tuple(self._errors()), answer["result"]["value"])

    def picture(self, path: Path) -> None:
        """Write a picture of the page that is open, from its head to its foot, as PNG."""
        drawn = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(drawn))

    def _requests(self) -> Iterator[str]:
        for event in self.events:
            if event["method"] == "Network.requestWillBeSent":
                yield event["params"]["request"]["url"]
            elif event["method"] == "Network.webSocketCreated":
                yield event["params"]["url"]

    def _errors(self) -> Iterator[str]:
        for event in self.events:
            told = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                yield f"exception: {told['exceptionDetails']['text']}"
            elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
                yield f"console: {[value.get('value') for value in told['args']]}"
            elif event["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
                yield f"log: {told['entry']['text']} {told['entry'].get('url', '')}"

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(asked | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._back], [], [], max(0, end - time.monotonic()))
            assert ready, f"the browser says nothing for {SECONDS} s"
            part = os.read(self._back, 1 << 20)
            assert part, "the browser has ended"
            self._held += part
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """Start a browser that keeps what it writes in a folder, and end it with the block."""
    assert INSTALLED is not None
    (theirs, to), (back, answers) = os.pipe(), os.pipe()
    # It reads from 3 and writes to 4.
    line = f'exec "$@" 3<&{theirs} 4>&{answers}'
    command = [
        "bash",
        "-c",
        line,
        "browser",
        INSTALLED,
        *OPTIONS,
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    with (profile.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(theirs, answers), stdout=log, stderr=log)
    os.close(theirs)
    os.close(answers)
    try:
        yield Browser(process, to, back)
    finally:
        process.terminate()
        process.wait(SECONDS)
        os.close(to)
        os.close(back)


def target(url: str) -> tuple[Path, str]:
    """Return the file that a link leads to, and the place on it."""
    address, place = urldefrag(url)
    return Path(unquote(urlsplit(address).path)), unquote(place)
