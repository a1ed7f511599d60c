"""Headless Chromium, driven by its DevTools protocol: a page opened as people open it, and what is wrong with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

from matplotlib import rcParams
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from wavevq.evaluate.report import DOTS_PER_INCH

SECONDS = 120  # that an answer may take: machines that run tests are busy
FLAGS = (
    "--headless",
    "--no-sandbox",  # which neither root nor most containers can have; the pages are our own
    "--disable-dev-shm-usage",  # of which containers have little
    "--disable-gpu",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever a page asks the network for, it does not get
    "--no-first-run",
    "--remote-debugging-port=0",  # a free one, which it writes into its profile
)
INSIDE = Path(__file__).with_suffix(".js").read_text("utf-8")


@dataclass(frozen=True)
class Seen:
    """What is wrong with a page in a window, a line each, and what there is to see and to hear.

    played: seconds of each <audio> that plays. images: of each <img> that shows something, CSS pixels a pixel.
    """

    problems: tuple[str, ...]
    played: tuple[float, ...]
    images: tuple[float, ...]


class Browser:
    """A connection to a running Chromium; every page is opened in a new tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._events: list[dict[str, Any]] = []

    def open(self, page: Path, width: int, scheme: Literal["light", "dark"] = "light") -> Seen:
        """A file in a window of ``width`` CSS pixels; below 600 it is a phone's, which minds ``<meta viewport>``."""
        tab = self._do("Target.createTarget", url="about:blank")["targetId"]
        there = {"sessionId": self._do("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._do(f"{domain}.enable", there)
        self._do("Page.setLifecycleEventsEnabled", there, enabled=True)
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self._do("Emulation.setDeviceMetricsOverride", there, **screen)
        self._do("Emulation.setEmulatedMedia", there, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._events.clear()
        went = self._do("Page.navigate", there, url=page.as_uri())
        assert "errorText" not in went, f"{page}: {went['errorText']}"
        loaded = {"name": "load", "loaderId": went["loaderId"]}
        while not any(loaded.items() <= event["params"].items() for event in self._events):
            self._hear()
        found = self._do(
            "Runtime.evaluate", there, expression=f"({INSIDE})({width})", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        inside = found["result"]["value"]
        events = [event for event in self._events if there.items() <= event.items()]
        told = [problem for event in events if (problem := _problem(event, page.as_uri()))]
        self._do("Target.closeTarget", targetId=tab)
        return Seen((*told, *inside["problems"]), tuple(inside["played"]), tuple(inside["images"]))

    def close(self) -> None:
        with suppress(ConnectionClosed):  # it is gone already, which a page that was being opened has told
            self._say("Browser.close", {}, {})  # there may be nobody left to answer

    def _do(self, method: str, session: dict[str, str] | None = None, /, **params: object) -> dict[str, Any]:
        """A command's answer; what happens meanwhile is kept."""
        number = self._say(method, session or {}, params)
        while (answer := self._hear()).get("id") != number:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _say(self, method: str, session: dict[str, str], params: dict[str, object]) -> int:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params, **session}))
        return number

    def _hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(SECONDS))
        if "method" in message:
            self._events.append(message)
        return message


@contextmanager
def started(chromium: str, profile: Path) -> Iterator[Browser]:
    """A Chromium of its own, with a new profile in an empty folder."""
    with (profile / "said").open("w") as said:
        process = subprocess.Popen([chromium, *FLAGS, f"--user-data-dir={profile}"], stdout=said, stderr=said)
    try:
        # No pings: a browser that waits for minutes between two tests on a busy machine is not gone.
        how: dict[str, Any] = {"proxy": None, "max_size": None, "open_timeout": SECONDS, "ping_interval": None}
        with connect(_address(process, profile), **how) as socket:
            driven = Browser(socket)
            yield driven
            driven.close()
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], profile: Path) -> str:
    port, end = profile / "DevToolsActivePort", time.monotonic() + SECONDS
    while not (port.exists() and port.read_text().count("\n")):
        assert process.poll() is None, (profile / "said").read_text()
        assert time.monotonic() < end, f"Chromium does not start: {(profile / 'said').read_text()}"
        time.sleep(0.02)
    number, path = port.read_text().split()
    return f"ws://127.0.0.1:{number}{path}"


def assert_readable(browser: Browser, page: Path) -> None:
    """A page of ``Report`` is whole, and nothing is wrong with it, on a desk and on a phone."""
    html = page.read_text("utf-8")
    for width, scheme in (1280, "light"), (390, "dark"):  # no size depends on the colours, and no colour on the sizes
        seen, where = browser.open(page, width, scheme), f"{page.name} at {width} px"
        assert not seen.problems, f"{where}: {seen.problems}"
        assert len(seen.played) == html.count("<audio") > 0, f"{where}: {len(seen.played)} clips play"
        assert len(seen.images) == html.count("<img") > 0, f"{where}: {len(seen.images)} images show something"
        # A plot's text may be smaller than the page's 12 px: its caption, of 14, says what it shows.
        smallest = min(seen.images) * rcParams["font.size"] / 72 * DOTS_PER_INCH
        assert smallest >= 10, f"{where}: the text of a plot is {smallest:.1f} px"


def installed() -> str | None:
    """The path of a Chromium or Chrome."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _problem(event: dict[str, Any], page: str) -> str | None:
    """What an event of the protocol says is wrong with a page that wants nothing but itself."""
    method, params = event["method"], event["params"]
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return f"console: {params['type']}: {' '.join(str(one.get('value')) for one in params['args'])}"
    if method == "Runtime.exceptionThrown":
        thrown = params["exceptionDetails"]
        return f"exception: {thrown.get('exception', {}).get('description', thrown['text'])}"
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return f"console: {params['entry']['text']}"
    if method == "Network.requestWillBeSent":
        url = params["request"]["url"]
        return None if url == page or url.startswith("data:") else f"asks for {url}"
    if method == "Network.loadingFailed":
        return f"{params['type']} not loaded: {params['errorText']}"
    return None
