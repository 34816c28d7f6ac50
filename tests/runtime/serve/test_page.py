"""The web page in a real browser, driven through chromedriver's HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import Segmenter

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    not (DRIVER and BROWSER), reason="needs Chromium: apt-get install chromium chromium-driver"
)

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the standard gives elements
TAB, RIGHT, END = "\ue004", "\ue014", "\ue010"
PATIENCE_S = 30.0


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, port: int) -> None:
        self._port = port
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": BROWSER, "args": arguments}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        body = {"capabilities": {"alwaysMatch": {"browserName": "chrome", **wanted}}}
        self._session = f"/session/{self._send('POST', '/session', body)['sessionId']}"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        text = None if method == "GET" else json.dumps(body or {})
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.loads(answer.read())["value"]
        assert answer.status == 200, value
        return value

    def do(self, path: str, **body: Any) -> Any:
        """Run a command of the session."""
        return self._send("POST", f"{self._session}{path}", body)

    def dev(self, command: str, **parameters: Any) -> None:
        """Run a command of the DevTools protocol."""
        self.do("/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str) -> Any:
        """Run JavaScript in the page and return its value."""
        return self.do("/execute/sync", script=script, args=[])

    def wait(self, condition: str) -> None:
        """Wait until an expression of JavaScript holds in the page."""
        script = """
            const done = arguments[arguments.length - 1];
            const look = () => (CONDITION) ? done(true) : setTimeout(look, 20);
            look();"""
        self.do("/execute/async", script=script.replace("CONDITION", condition), args=[])

    def choose(self, path: Path) -> None:
        """Choose a file as a person does."""
        found = self.do("/element", using="css selector", value="#picture")[ELEMENT]
        self.do(f"/element/{found}/value", text=str(path))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.do("/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def complaints(self) -> list[str]:
        """Return what the console got since the last time: script errors, refused resources."""
        return [entry["message"] for entry in self.do("/se/log", type="browser")]

    def screenshot(self) -> Image.Image:
        """Return what is to be seen."""
        data = self._send("GET", f"{self._session}/screenshot")
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def close(self) -> None:
        self._send("DELETE", self._session)


@pytest.fixture(scope="module")
def driver() -> Iterator[int]:
    """A running chromedriver's port."""
    assert DRIVER is not None
    process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                yield int(found[1])
                return
        raise AssertionError("chromedriver did not start")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser(driver: int) -> Iterator[Browser]:
    opened = Browser(driver)
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser, served: Any) -> Browser:
    browser.do("/url", url=f"http://{served.address}/")
    return browser


@pytest.fixture
def photo(picture: Callable[..., bytes], tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(picture(4, (300, 420)))
    return path


RESULT = "!document.querySelector('#result').hidden && document.querySelector('#mask').complete"
ERROR = "!document.querySelector('#error').hidden"


def test_the_page_may_load_nothing_from_elsewhere(served: Any) -> None:
    reply = served.ask("GET", "/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/", "/page.css", "/page.js"):
        reply = served.ask("GET", path)
        assert reply.status == 200
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert not re.search(rb"https?://|url\(", reply.body)


@needs_browser
def test_a_chosen_picture_is_shown_with_its_mask_legend_and_time(
    page: Browser, photo: Path, segmenter: Segmenter
) -> None:
    page.choose(photo)
    page.wait(RESULT)
    expected = segmenter(photo)
    legend = page.run(
        "return [...document.querySelectorAll('#legend li')].map(item => "
        "[item.children[1].textContent, item.children[2].textContent, "
        "getComputedStyle(item.children[0]).backgroundColor])"
    )
    assert [name for name, _, _ in legend] == list(expected.coverage)
    for name, share, color in legend:
        red, green, blue = segmenter.labels.palette[segmenter.labels.names.index(name)]
        assert color == f"rgb({red}, {green}, {blue})"
        shown = expected.coverage[name]
        assert share == ("< 0.1 %" if shown < 0.001 else f"{100 * shown:.1f} %")
    sizes = page.run(
        "return ['original', 'mask'].map(id => document.getElementById(id)).map(image => "
        "[image.naturalWidth, image.naturalHeight, image.getBoundingClientRect().width])"
    )
    assert sizes[0] == sizes[1]
    assert sizes[0][:2] == [420, 300]
    status = page.run("return document.querySelector('#status').textContent")
    assert re.search(r"420 . 300 pixels in \d+ ms, .* tiny_bundle, fp32 on ort:cpu", status)
    saved = page.run("return document.querySelector('#save').href").partition(",")[2]
    mask = Image.open(io.BytesIO(base64.b64decode(saved)))
    np.testing.assert_array_equal(np.asarray(mask), expected.class_map)
    assert page.complaints() == []


@needs_browser
def test_it_is_used_with_the_keyboard_alone(page: Browser, photo: Path) -> None:
    page.press(TAB)
    assert page.run("return document.activeElement.id") == "picture"
    page.choose(photo)
    page.wait(RESULT)
    before = page.screenshot()
    page.press(TAB)
    assert page.run("return document.activeElement.id") == "opacity"
    page.press(RIGHT)
    assert page.run("return document.querySelector('#percent').textContent") == "56 %"
    page.press(END)
    assert page.run("return getComputedStyle(document.querySelector('#mask')).opacity") == "1"
    assert page.screenshot().tobytes() != before.tobytes()


@needs_browser
def test_a_dropped_picture_is_segmented(page: Browser) -> None:
    page.run(
        "const canvas = document.createElement('canvas'); canvas.width = 30; canvas.height = 20;"
        "canvas.getContext('2d').fillRect(0, 0, 30, 20);"
        "canvas.toBlob(blob => { const data = new DataTransfer();"
        "data.items.add(new File([blob], 'drawn.png'));"
        "document.body.dispatchEvent("
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); });"
    )
    page.wait(RESULT)
    status = page.run("return document.querySelector('#status').textContent")
    assert re.match("30 . 20 pixels", status)


@needs_browser
def test_what_cannot_be_read_is_said_in_words_and_the_next_picture_works(
    page: Browser, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("<b>no picture</b>")
    page.choose(tmp_path / "text.png")
    page.wait(ERROR)
    assert "is not a readable image" in page.run(
        "return document.querySelector('#error').textContent"
    )
    assert page.run("return document.querySelector('#result').hidden")
    page.choose(photo)
    page.wait(RESULT)
    assert page.run("return document.querySelector('#error').hidden")
    complaints = page.complaints()
    assert all("422" in line for line in complaints), complaints  # Chromium notes the status


@needs_browser
def test_names_of_classes_are_text_whatever_they_contain(
    browser: Browser, serving: Callable[..., Any], bundle: Path, edit_manifest: Any, photo: Path
) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        names = manifest["labels"]["names"]
        manifest["labels"]["names"] = [f"<b>{i}</b> é ☃" for i in range(len(names))]

    edit_manifest(rename)
    browser.do("/url", url=f"http://{serving(bundle).address}/")
    browser.choose(photo)
    browser.wait(RESULT)
    found = browser.run(
        "return [...document.querySelectorAll('#legend li')].map(item => "
        "[item.children[1].textContent, item.children[1].children.length])"
    )
    assert found
    assert all(re.fullmatch(r"<b>\d+</b> é ☃", name) for name, _ in found)
    assert {children for _, children in found} == {0}


@needs_browser
def test_a_server_that_is_gone_is_said_in_words(
    browser: Browser, serving: Callable[..., Any], photo: Path
) -> None:
    served = serving()
    browser.do("/url", url=f"http://{served.address}/")
    browser.dev("Network.enable")
    gone = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.dev("Network.emulateNetworkConditions", **gone)
    browser.choose(photo)
    browser.wait(ERROR)
    assert "did not answer" in browser.run("return document.querySelector('#error').textContent")
    browser.dev("Network.emulateNetworkConditions", **{**gone, "offline": False})
    browser.complaints()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_screen_and_follows_the_colour_scheme(
    page: Browser, photo: Path, scheme: str, width: int
) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.dev("Emulation.setDeviceMetricsOverride", **metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.dev("Emulation.setEmulatedMedia", features=features)
    page.choose(photo)
    page.wait(RESULT)
    assert page.run("return document.documentElement.scrollWidth") <= width
    corner = sum(page.screenshot().getpixel((2, 2)))  # type: ignore[arg-type] # RGB: a tuple
    assert corner > 3 * 200 if scheme == "light" else corner < 3 * 60
    page.dev("Emulation.clearDeviceMetricsOverride")
