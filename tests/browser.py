"""A headless Chromium that is worked by real clicks and keys, through a pipe: nothing but the
browser is needed.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8, "Escape": 27}


class Browser:
    """One page; `folder` takes what it downloads. `errors` are its scripts' exceptions, and what
    was refused to it.
    """

    def __init__(self, folder: Path, url: str, gpu: bool = False):
        theirs, self.commands = os.pipe()
        self.answers, back = os.pipe()
        started = [
            "bash",
            "-c",
            f'exec 3<&{theirs} 4>&{back}; exec "$@"',
            "-",
            BROWSER,
            "--headless",
            "--no-sandbox",
        ]
        started += [
            *(
                ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
                if gpu
                else ("--disable-gpu",)
            ),
            "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
            "about:blank",
        ]
        self.process = subprocess.Popen(started, pass_fds=(theirs, back), stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(back)
        self.waiting = b""
        self.number = 0
        self.page = {}
        self.errors = []
        (target,) = [
            one for one in self("Target.getTargets")["targetInfos"] if one["type"] == "page"
        ]
        self.page = {
            "sessionId": self("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
                "sessionId"
            ]
        }
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

        self(
            "Emulation.setDeviceMetricsOverride",
            width=1280,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self("Page.navigate", url=url)
        self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()

    def __call__(self, method: str, **parameters) -> dict:
        """One command of the DevTools protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | self.page
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        found = {}
        while found.get("id") != self.number:
            while b"\0" not in self.waiting:
                piece = os.read(self.answers, 1 << 16)
                assert piece, "the browser is gone"
                self.waiting += piece

            text, _, self.waiting = self.waiting.partition(b"\0")
            found = json.loads(text)
            if (
                found.get("method") == "Runtime.exceptionThrown"
                or '"level":"error"' in text.decode()
            ):
                self.errors.append(text.decode())

        return found.get("result", found)

    def js(self, expression: str):
        """The value of an expression, waited for where it is a promise."""
        found = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return found.get("result", found).get("value")

    def until(self, condition: str) -> None:
        """Waits for a condition, half a minute of the page's own clock at most; the page may change
        meanwhile.
        """
        loop = (
            f"for (let n = 0; n < 100 && !({condition}); n++) await new Promise((go) =>"
            " setTimeout(go, 10));"
        )
        loop = f"(async () => {{ {loop} return Boolean({condition}); }})()"
        assert any(self.js(loop) for _ in range(30)), condition

    def press(self, key: str) -> None:
        """A key goes down and up."""
        for kind in ("keyDown", "keyUp"):
            code = CODES.get(key, ord(key[0].upper()))
            self("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def drag(self, selector: str, dy: int = 0) -> None:
        """The mouse goes down in the middle of an element, moves, and goes up; without a way it is
        a click.
        """
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.js(
            f"(() => {{ const b = {box}; return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        )
        for kind, share, held in (
            ("mousePressed", 0, 1),
            ("mouseMoved", 1, 1),
            ("mouseReleased", 1, 0),
        ):
            place = {"x": x, "y": y + share * dy, "button": "left", "buttons": held}
            self("Input.dispatchMouseEvent", type=kind, clickCount=1, **place)
