"""A headless Chromium, driven by the DevTools protocol over two pipes: as a person does, by keys and clicks."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)
_TIMEOUT_S = 60


class Browser:
    """One page. Use it as a context."""

    def __init__(self, profile: Path, *, width: int = 1100, height: int = 1400) -> None:
        """profile: a folder of its own."""
        assert CHROMIUM is not None
        here_reads, there_writes = os.pipe()
        there_reads, self._to = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = f'exec 3<&{there_reads} 4>&{there_writes} && exec "$0" "$@"'
        words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *_QUIET]
        words += ["--remote-debugging-pipe", f"--window-size={width},{height}", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, *words], pass_fds=(there_reads, there_writes), stderr=subprocess.DEVNULL
        )
        os.close(there_reads)
        os.close(there_writes)
        self._from, self._rest, self._last = here_reads, b"", 0
        self.events: list[dict[str, Any]] = []
        """What the page reported: messages on its console, exceptions, requests."""
        self._session = ""
        targets = self._wait_for_page()
        self._session = self.call("Target.attachToTarget", targetId=targets, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _wait_for_page(self) -> str:
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            pages = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
            if pages:
                return str(pages[0]["targetId"])
            time.sleep(0.05)
        raise AssertionError("no page")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The protocol's answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._read()
            if said.get("id") == self._last:
                assert "error" not in said, said
                return dict(said["result"])
            self.events.append(said)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], _TIMEOUT_S)
            part = os.read(self._from, 1 << 20) if ready else b""
            assert part, "the browser says nothing any more"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        said = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, condition: str) -> Any:
        """Wait until an expression holds; its value."""
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            value = self.run(condition)
            if value:
                return value
            time.sleep(0.03)
        raise AssertionError(f"never came: {condition}\n{self.run('document.body.innerText')}")

    def open(self, address: str) -> None:
        """Go there, and wait for its scripts."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first element that fits."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.run(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Where the focus is."""
        for sign in text:
            self.call("Input.insertText", text=sign)

    def press(self, key: str, code: int = 0) -> None:
        """A key such as Enter (13), Tab (9), Escape (27)."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, code=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code, code=key)

    def choose(self, selector: str, file: Path) -> None:
        """What its dialog for files does."""
        node = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=node["objectId"])

    def drop(self, file: Path) -> None:
        """Drag a file from elsewhere into the window and let it go."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)

    def picture(self, path: Path) -> None:
        """A screenshot."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def size(self, width: int, height: int) -> None:
        """Make the window so large, as a telephone's where it is narrow."""
        narrow = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=narrow)

    def problems(self) -> list[str]:
        """Exceptions, messages of errors and requests to other places than `self.run('location.origin')`, so far."""
        origin = self.run("location.origin")
        found = []
        for event in self.events:
            method, said = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(str(said["exceptionDetails"]))
            elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
                found.append(f"{said['entry']['text']} {said['entry'].get('url')}")
            elif method == "Network.requestWillBeSent" and not said["request"]["url"].startswith((f"{origin}/", "data:")):
                found.append(said["request"]["url"])
        return found
