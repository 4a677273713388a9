"""A headless Chromium for tests, spoken to in its own language, the DevTools protocol."""

import asyncio
import base64
import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --mute-audio "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --remote-debugging-port=0"
).split()


def find():
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser; what the page asks for and complains about is kept in `events`."""

    def __init__(self, profile, program=None):
        self.events = []
        self._count = 0
        self._loop = asyncio.new_event_loop()
        command = [program or find(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        # Its own group, so that its helpers end with it.
        self._process = subprocess.Popen(command, start_new_session=True, **quiet)
        try:
            self._connect(Path(profile) / "DevToolsActivePort")
        except BaseException:
            self.close()
            raise

    def _connect(self, file):
        limit = time.monotonic() + 30
        while not (file.exists() and len(file.read_text().split()) == 2):
            if time.monotonic() > limit or self._process.poll() is not None:
                raise TimeoutError("Chromium did not start within 30 s.")
            time.sleep(0.05)
        port, path = file.read_text().split()
        address = f"ws://127.0.0.1:{port}{path}"
        self._socket = self._run(lambda: websocket_connect(address, max_message_size=2**26), 30)
        self._session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        # They come and go with the size of a screenshot, and the page would move.
        self.send("Emulation.setScrollbarsHidden", hidden=True)

    def _run(self, start, seconds):
        """Call what returns an awaitable, inside the loop, and wait for its result."""

        async def limited():
            return await asyncio.wait_for(start(), seconds)

        return self._loop.run_until_complete(limited())

    def _receive(self, seconds):
        """Return the next message."""
        text = self._run(self._socket.read_message, seconds)
        if text is None:
            raise ConnectionError("Chromium closed the connection.")
        return json.loads(text)

    def send(self, method, seconds=30, **parameters):
        """Give a command of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._run(lambda: self._socket.write_message(json.dumps(message)), seconds)
        while True:
            answer = self._receive(seconds)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def open(self, path, width=1100, height=900):
        """Load a file of this machine in a window of that size and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        failed = self.send("Page.navigate", url=Path(path).resolve().as_uri()).get("errorText")
        if failed:
            raise RuntimeError(f"{path}: {failed}")
        self.wait("document.readyState === 'complete'")

    def evaluate(self, script):
        """Return the value of a JavaScript expression; a promise is awaited."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        result = self.send("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script, seconds=10):
        """Wait until a JavaScript expression is true."""
        limit = time.monotonic() + seconds
        while not self.evaluate(script):
            if time.monotonic() > limit:
                raise TimeoutError(f"not true within {seconds} s: {script}")
            time.sleep(0.03)

    def press(self, key, code=0):
        """Press and release a key, such as ``"Tab"`` (9) or ``"ArrowDown"`` (40)."""
        for kind in ("keyDown", "keyUp"):
            options = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self.send("Input.dispatchKeyEvent", **options)

    def screenshot(self, selector="html"):
        """Return what the first such element looks like, ``(H, W, 3) uint8``."""
        box = self.evaluate(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return {x: b.x + scrollX, y: b.y + scrollY, "
            "width: b.width, height: b.height, scale: 1}; })()"
        )
        shot = self.send("Page.captureScreenshot", clip=box, captureBeyondViewport=True)
        with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
            return np.asarray(image.convert("RGB"))

    def requests(self):
        """Return the addresses that the page has asked for since it was opened."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]

    def complaints(self):
        """Return the errors and warnings since the page was opened."""
        found = []
        for event in self.events:
            about = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                if about["type"] in ("error", "warning", "assert"):
                    found.append(about["args"])
            elif event["method"] == "Log.entryAdded":
                if about["entry"]["level"] in ("error", "warning"):
                    found.append(about["entry"]["text"])
        return found

    def close(self):
        """End the browser that this object has started, and nothing else."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
