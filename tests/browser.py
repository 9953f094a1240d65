"""A headless Chromium that tests look at pages with, driven by its own debugging protocol: nothing to download."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.helpers import free_port, wait_for_port

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_S = 60
SHOWN_S = 60
TEXT = "document.body?.innerText ?? ''"


class RefusedError(Exception):
    """The browser does not do what it is told."""


class Page:
    """One tab.

    Args:
        address: Of its debugging socket.
    """

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        self._loop.run_until_complete(self._connect(address))

    async def _connect(self, address: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(address, max_msg_size=0)

    def open(self, address: str) -> None:
        """Go to an address; what is to be seen there may take a while (see `shows`)."""
        self._call("Page.navigate", url="about:blank")  # or a change behind the # alone would load nothing
        self._call("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        """Return what a person reads on the page, frames included, sandboxed ones too."""
        frames = self._call("Page.getFrameTree")["frameTree"].get("childFrames", [])
        inside = [self._text_in(frame["frame"]["id"]) for frame in frames]
        return "\n".join([str(self.evaluate(TEXT) or ""), *inside])

    def _text_in(self, frame: str) -> str:
        try:
            world = self._call("Page.createIsolatedWorld", frameId=frame)["executionContextId"]
            found = self._call("Runtime.evaluate", expression=TEXT, contextId=world, returnByValue=True)
        except RefusedError:  # the page was drawn anew since
            return ""
        return str(found["result"].get("value", ""))

    def shows(self, *texts: str) -> str:
        """Wait until all these texts can be read; returns all that can be read.

        Raises:
            AssertionError: They do not appear.
        """
        end, seen = time.monotonic() + SHOWN_S, ""
        while time.monotonic() < end:
            seen = self.text()
            if all(text in seen for text in texts):
                return seen
            time.sleep(0.2)
        raise AssertionError(f"{[text for text in texts if text not in seen]} not on the page:\n{seen}")

    def screenshot(self, path: Path) -> None:
        """Write a PNG of what can be seen."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Leave it."""
        self._loop.run_until_complete(self._session.close())
        self._loop.close()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(asyncio.wait_for(self._ask(method, parameters), SHOWN_S))

    async def _ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads((await self._socket.receive()).data)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RefusedError(answer["error"])
                result: dict[str, Any] = answer["result"]
                return result


def installed() -> str | None:
    """Return the browser of this machine, if it has one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def browsing(profile: Path, *, size: tuple[int, int] = (1400, 1000)) -> Iterator[Page]:
    """Have a browser for a while.

    Args:
        profile: A folder for what it keeps.
        size: Of its window.
    """
    port = free_port()
    command = [str(installed()), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-features=IsolateSandboxedIframes"]  # a frame in a process of its own has a socket of its own
    command += [f"--remote-debugging-port={port}", "--remote-allow-origins=*", f"--user-data-dir={profile}"]
    command += [f"--window-size={size[0]},{size[1]}", "about:blank"]
    profile.mkdir(parents=True, exist_ok=True)
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_port(port, START_S)
        page = Page(_tab(port))
        try:
            yield page
        finally:
            page.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


def _tab(port: int) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            tabs = [found for found in json.load(answer) if found["type"] == "page"]
        if tabs:
            return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise TimeoutError("the browser has no tab")
