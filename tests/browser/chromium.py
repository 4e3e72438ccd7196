"""Debian's Chromium without a window and without a network, driven over the pipe of its DevTools protocol:

    python tests/browser/chromium.py PAGE.html FOLDER      pictures of a page: 1400 and 400 pixels, light and dark

Where it is missing it is installed by apt-get, which needs root; ``Unavailable`` says why there can be none.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))  # of a command that is no test

import debian_packages  # noqa: E402

PACKAGE = PROGRAM = "chromium"
WORDS = ("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
         "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank")
SECONDS = 60  # that an answer may take
WIDTHS, SCHEMES = (1400, 400), ("light", "dark")


def install():
    """Chromium, by apt-get where it is missing."""
    if shutil.which(PROGRAM):
        return
    debian_packages.install([PACKAGE], f"{PROGRAM} is missing")


@contextlib.contextmanager
def browser():
    """A Chromium with a separate profile, which ends with the block."""
    install()
    profile = tempfile.mkdtemp(prefix="chromium-")
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()

    def place_pipes():  # Chromium reads commands from 3 and answers on 4
        ends = os.dup(to_browser), os.dup(from_browser)
        for end, number in zip(ends, (3, 4), strict=True):
            os.dup2(end, number)

    words = [PROGRAM, *(("--no-sandbox",) if os.geteuid() == 0 else ()), f"--user-data-dir={profile}", *WORDS]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=place_pipes, close_fds=False, start_new_session=True)
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Pipe(from_us, to_us)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        process.kill()
        process.wait()
        os.close(from_us)
        os.close(to_us)
        shutil.rmtree(profile, ignore_errors=True)


class Pipe:
    """Messages of the DevTools protocol: JSON, each ended by a zero byte."""

    def __init__(self, out, back):
        self.out, self.back, self.pending, self.number, self.events = out, back, b"", 0, []

    def call(self, method, session=None, **parameters):
        """The result of a command; what happens meanwhile is kept in ``events``."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {})
        os.write(self.out, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda found: found.get("id") == self.number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait(self, is_it):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            message = self._next(deadline)
            if is_it(message):
                return message
            self.events.append(message)
        raise TimeoutError("Chromium does not answer")

    def _next(self, deadline):
        while b"\0" not in self.pending:
            if not select.select([self.back], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            received = os.read(self.back, 1 << 16)
            if not received:
                raise RuntimeError("Chromium has ended")
            self.pending += received
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)


class Page:
    """A file in a tab of ``width`` pixels, in a colour scheme. ``complaints`` are errors, warnings and exceptions that
    the console shows, ``requests`` the addresses that were asked for."""

    def __init__(self, pipe, path, width, scheme, height=900):
        self.pipe, self.width = pipe, width
        target = pipe.call("Target.createTarget", url="about:blank")["targetId"]
        self.target = target
        self.session = pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        if not any(self._is_loaded(event) for event in pipe.events):
            pipe.events.append(pipe.wait(self._is_loaded))

    def _is_loaded(self, event):
        return event.get("sessionId") == self.session and event.get("method") == "Page.loadEventFired"

    def call(self, method, **parameters):
        return self.pipe.call(method, self.session, **parameters)

    def ask(self, expression):
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", expression))
        return found["result"].get("value")

    def _told(self, method):
        return [event["params"] for event in self.pipe.events
                if event.get("sessionId") == self.session and event["method"] == method]

    @property
    def complaints(self):
        return [*(entry["entry"]["text"] for entry in self._told("Log.entryAdded")),
                *(str(call["args"]) for call in self._told("Runtime.consoleAPICalled")
                  if call["type"] in ("error", "warning", "assert")),
                *(str(thrown["exceptionDetails"]) for thrown in self._told("Runtime.exceptionThrown"))]

    @property
    def requests(self):
        return [sent["request"]["url"] for sent in self._told("Network.requestWillBeSent")]

    def picture(self, whole=True):
        """PNG of the page, or of what a window of its size shows."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def paper(self):
        """PDF of the page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def close(self):
        self.pipe.call("Target.closeTarget", targetId=self.target)


@contextlib.contextmanager
def opened(pipe, path, width=1400, scheme="light"):
    page = Page(pipe, path, width, scheme)
    try:
        yield page
    finally:
        page.close()


def main(path, folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    with browser() as pipe:
        for width in WIDTHS:
            for scheme in SCHEMES:
                with opened(pipe, path, width, scheme) as page:
                    (Path(folder) / f"{width}_{scheme}.png").write_bytes(page.picture())
        with opened(pipe, path) as page:
            (Path(folder) / "print.pdf").write_bytes(page.paper())


if __name__ == "__main__":
    main(*sys.argv[1:])
