"""A headless Chromium that tests drive through two pipes, by its DevTools protocol.

Only the standard library is needed besides the browser: messages are JSON, each ended by a zero
byte (`chromium --remote-debugging-pipe` reads them from descriptor 3 and writes to 4).
"""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
# Puts the pipes where the browser looks for them. A function for the child of a fork could do so,
# too, but processes that run jax must not fork.
MOVE = """
import os, sys
for given, above in zip(sys.argv[1:3], (20, 21)):
    os.dup2(int(given), above)
os.dup2(20, 3), os.dup2(21, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
SECONDS = 60  # that the browser may be silent


@contextlib.contextmanager
def browser():
    """Yield a `Page` of a new browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        reads, gives = os.pipe(), os.pipe()  # what the browser reads, what it gives

        command = [sys.executable, "-c", MOVE, str(reads[0]), str(gives[1]), PATH, *OPTIONS]
        command += [f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, pass_fds=(reads[0], gives[1]), **quiet)
        os.close(reads[0]), os.close(gives[1])
        try:
            yield Page(reads[1], gives[0])
        finally:
            process.terminate()
            process.wait()
            os.close(reads[1]), os.close(gives[0])


class Page:
    """The browser's one page."""

    def __init__(self, writes, reads):
        self.writes, self.reads, self.rest = writes, reads, b""
        self.numbers, self.session, self.events = itertools.count(1), None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(own["targetId"] for own in targets if own["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Return what the browser answers; what happens meanwhile is kept in `events`."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reads], [], [], SECONDS)
            assert ready, "the browser is silent"
            self.rest += os.read(self.reads, 1 << 20)
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, path, width=1280, *, dark=False, media=""):
        """Open a file at a width in pixels and wait until all of it is there."""
        self.events.clear()
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Page.navigate", url=pathlib.Path(path).resolve().as_uri())
        ends = time.monotonic() + SECONDS
        while (
            self.run("document.readyState") != "complete"
            or self.run("location.href") == "about:blank"
        ):
            assert time.monotonic() < ends, "the page does not load"
            time.sleep(0.02)

    def run(self, script):
        """Return the value of a script in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self):
        """Return what the console said since the page was opened."""
        self.run("0")  # whatever was said before this has arrived
        said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event for event in self.events if event.get("method") in said]

    def requests(self):
        """Return the addresses that the page asked for, but for itself and what it holds."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("file:", "data:"))]

    def picture(self, path):
        """Write a screenshot of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))
