"""The page on a real server and from a file: the same picture after the same steps; and what a server can refuse.

DANET_SCREENSHOTS names a folder for pictures of the page, to be looked at.
"""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from danet.data.scenes import scene
from danet.inference.segmenter import Segmenter, load
from danet.serving.app import create_app
from danet.serving.limits import Limits
from danet.viz.answer import answer
from danet.viz.attention_page import attention_page, stand_alone
from tests.viz.browser import PICTURE, ask, at, click, pixels, settled, shown

LIMITS = Limits(bytes=3_000_000, pixels=200_000, seconds=30, concurrency=1)
LOADED = "() => document.querySelector('.attend').danet"
CHOSEN = "(name) => document.querySelector('.tab[aria-pressed=true]')?.textContent === name"


class Served(NamedTuple):
    """A server in a thread of this process, on a port of its own."""

    segmenter: Segmenter
    app: Callable
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @contextmanager
    def running(self) -> Iterator[str]:
        server = uvicorn.Server(
            uvicorn.Config(self.app, port=self.port, log_level="error", access_log=False, ws="none", lifespan="off")
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                thread.join(0.05)
                assert thread.is_alive()
            yield self.address
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def served() -> Served:
    segmenter = load(device="cpu", precision="float32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Served(segmenter, create_app(segmenter, LIMITS), port)


@pytest.fixture
def server(served: Served) -> Iterator[str]:
    with served.running() as address:
        yield address


@pytest.fixture
def said() -> list[str]:
    """What the console says, and what is loaded from elsewhere."""
    return []


@pytest.fixture
def browser_window(chromium: Browser, said: list[str]) -> Iterator[Callable[..., Page]]:
    contexts: list[BrowserContext] = []

    def window(address: str, **options) -> Page:
        contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, "locale": "en"} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        origin = address.split("#")[0]

        def requested(url: str) -> None:
            if not url.startswith((origin, "data:", "blob:")):
                said.append(f"loaded {url}")

        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requested(request.url))
        page.goto(address)
        page.wait_for_function(LOADED)
        return page

    yield window
    for context in contexts:
        context.close()


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A picture that neither side knows beforehand."""
    path = tmp_path / "street.png"
    Image.fromarray(scene(7, 3, 300, 400).image).save(path)
    return path


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[[Page, str], None]:
    folder = Path(os.environ.get("DANET_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def screenshot(page: Page, name: str) -> None:
        settled(page)
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return screenshot


@pytest.mark.slow
def test_a_served_page_and_a_file_do_the_same(
    served: Served, server: str, browser_window, said, photograph: Path, screenshot, tmp_path: Path
):
    """Upload, click, drag, pin, column, take away, legend, learn, on both, with the same picture after each step."""
    encoding = served.segmenter.encode(str(photograph))
    examples = [served.segmenter.encode(scene(1003, 4, 480, 640, twin=twin).image) for twin in (False, True)]
    views = [one.view(name) for one, name in zip(examples, ("scene", "twin"), strict=True)]
    (tmp_path / "page.html").write_text(attention_page(views), encoding="utf-8")
    (tmp_path / "street.png.safetensors").write_bytes(answer(encoding.view(photograph.name)))
    pages = [browser_window(server), browser_window((tmp_path / "page.html").as_uri())]
    size = encoding.prediction.labels.shape

    def everywhere(step: str, act: Callable[[Page], object]) -> None:
        for page in pages:
            act(page)
            settled(page)
        # Hover tips and captions are told by each page alike; the canvas is compared pixel by pixel.
        one, other = (shown(page) for page in pages)
        np.testing.assert_array_equal(one, other, step)
        texts = [page.locator(".side").inner_text() for page in pages]
        assert texts[0] == texts[1], step

    everywhere("first paint", lambda page: page.wait_for_selector(".point .name"))
    assert shown(pages[0]).std() > 20
    screenshot(pages[0], "first")
    everywhere("the twin", lambda page: (page.locator(".tab").nth(1).click(), page.wait_for_timeout(300)))
    screenshot(pages[0], "twin")

    pages[0].locator("input[type=file]").first.set_input_files(photograph)
    pages[0].wait_for_function(CHOSEN, arg="street.png")
    pages[1].locator("input[type=file]").set_input_files(tmp_path / "street.png.safetensors")
    pages[1].wait_for_function(CHOSEN, arg="street.png.safetensors")
    everywhere("upload", settled)
    point = (120, 250)
    everywhere("click", lambda page: click(page, size, *point))
    row = np.array(ask(pages[0], "Array.from(danet.row(danet.state.place))"))
    expected = encoding.attention(point).ravel()
    assert np.abs(row - expected).max() <= 1e-3 * expected.max()
    told = pages[0].locator(".class").first
    share = encoding.by_class(point)[told.locator(".name").inner_text()]
    assert told.locator(".figure").inner_text() in (f"{100 * share:.0f}\u202f%", "< 1\u202f%")

    def drag(page: Page) -> None:
        page.mouse.move(*at(page, size, *point))
        page.mouse.down()
        page.mouse.move(*at(page, size, 300, 200), steps=5)
        page.mouse.up()

    everywhere("drag", drag)
    assert ask(pages[0], "[danet.state.x, danet.state.y]") == [300, 200]
    everywhere("pin", lambda page: page.keyboard.press("Space"))
    everywhere("column", lambda page: page.get_by_label("is looked at by").check())
    everywhere("another", lambda page: (click(page, size, 90, 260), page.keyboard.press("Space")))
    everywhere("side by side", lambda page: page.get_by_label("two side by side").check())
    second = [pixels(page.locator(PICTURE).nth(1)) for page in pages]
    np.testing.assert_array_equal(*second)
    screenshot(pages[0], "pins")
    everywhere("one again", lambda page: page.get_by_label("two side by side").uncheck())
    everywhere("row", lambda page: page.get_by_label("looks at", exact=True).check())
    everywhere("take away", lambda page: page.get_by_role("button", name="Take away").click())
    screenshot(pages[0], "taken")
    everywhere("put back", lambda page: page.get_by_role("button", name="Put it back").click())
    everywhere("labels", lambda page: page.locator(".opacity input").fill("0.5"))
    everywhere("one class", lambda page: page.locator(".class", has_text="pavement").click())
    screenshot(pages[0], "labels")
    everywhere("all again", lambda page: page.locator(".class", has_text="pavement").click())
    everywhere("no labels", lambda page: page.locator(".opacity input").fill("0"))
    everywhere("magma", lambda page: page.get_by_label("magma").check())
    everywhere("dark", lambda page: page.emulate_media(color_scheme="dark"))
    screenshot(pages[0], "dark")
    everywhere("light", lambda page: (page.emulate_media(color_scheme="light"), page.get_by_label("light").check()))
    everywhere("learn", lambda page: page.keyboard.press("l"))
    assert all(page.locator(".learn h2").is_visible() for page in pages)
    screenshot(pages[0], "learn")
    everywhere("narrow", lambda page: (page.keyboard.press("l"), page.set_viewport_size({"width": 390, "height": 800})))
    screenshot(pages[0], "narrow")
    assert said == []


def test_the_served_page_speaks_chinese_and_comes_back_to_its_address(server: str, browser_window, said, screenshot):
    page = browser_window(server, locale="zh-CN")
    assert page.locator("h1").inner_text() == "点一个像素，看它在看哪里"
    assert page.locator(".tab").all_inner_texts() == ["内置场景", "孪生场景"]
    page.locator(".tab").nth(1).click()
    page.wait_for_function(CHOSEN, arg="孪生场景")
    click(page, (480, 640), 100, 400)
    page.wait_for_function("() => location.hash.includes('at=100%2C400')")
    screenshot(page, "chinese")
    again = browser_window(page.url)
    again.wait_for_function(CHOSEN, arg="its twin")
    assert ask(again, "[danet.state.x, danet.state.y]") == [100, 400]
    assert said == []


def test_a_photograph_is_offered_where_a_finger_points(server: str, browser_window, said):
    page = browser_window(server, has_touch=True, is_mobile=True)
    camera = page.locator(".photograph")
    assert camera.is_visible()
    assert camera.locator("input").get_attribute("capture") == "environment"
    assert not browser_window(server).locator(".photograph").is_visible()
    assert said == []


def test_seconds_are_told_while_an_image_is_encoded(server: str, browser_window, said, photograph: Path, screenshot):
    page = browser_window(server)
    page.evaluate(
        """() => { window.told = [];
          new MutationObserver(() => told.push(document.querySelector('.status').textContent))
            .observe(document.querySelector('.status'), { childList: true }); }"""
    )
    page.locator("input[type=file]").first.set_input_files(photograph)
    page.wait_for_function("() => told.length")
    page.wait_for_function(CHOSEN, arg="street.png")
    told = page.evaluate("told")
    assert re.fullmatch(r"Encoding street.png: (about \d+ s left|any moment now)", told[0])
    assert page.locator(".status").inner_text() == ""
    assert said == []


@pytest.mark.parametrize(
    ("event", "field"), [("DragEvent('drop'", "dataTransfer"), ("ClipboardEvent('paste'", "clipboardData")]
)
def test_an_image_can_be_dropped_or_pasted(server: str, browser_window, said, photograph: Path, event: str, field: str):
    page = browser_window(server)
    page.evaluate(
        f"""(bytes) => {{
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "mine.png", {{ type: "image/png" }}));
          document.body.dispatchEvent(new {event}, {{ {field}: transfer, bubbles: true, cancelable: true }}));
        }}""",
        list(photograph.read_bytes()),
    )
    page.wait_for_function(CHOSEN, arg="mine.png")
    assert ask(page, "danet.view.original_size") == [300, 400]
    assert said == []


REFUSED = "Failed to load resource: the server responded with a status of"


def test_what_is_no_image_is_told_and_the_picture_goes_on(server: str, browser_window, said, tmp_path: Path):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    page = browser_window(server)
    before = shown(page)
    page.locator("input[type=file]").first.set_input_files(text)
    page.wait_for_function("() => document.querySelector('.status').textContent.startsWith('notes.png: ')")
    np.testing.assert_array_equal(shown(page), before)
    click(page, (480, 640), 100, 400)
    assert (shown(page) != before).any()
    assert [line for line in said if not line.startswith(REFUSED)] == []


@pytest.mark.parametrize("too_much", ["pixels", "bytes"])
def test_an_image_that_is_too_large_can_be_shrunk(
    server: str, browser_window, said, tmp_path: Path, too_much: str, screenshot
):
    large = tmp_path / "large.png"
    image = scene(7, 3, 300, 400).image
    if too_much == "pixels":
        Image.fromarray(image).resize((640, 480)).save(large)  # 307,200 of them
    else:
        noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
        Image.fromarray(noise).save(large)
        assert large.stat().st_size > LIMITS.bytes
    page = browser_window(server)
    page.locator("input[type=file]").first.set_input_files(large)
    page.get_by_role("button", name="Shrink it and go on").click(trial=True)
    screenshot(page, f"too-large-{too_much}")
    page.get_by_role("button", name="Shrink it and go on").click()
    page.wait_for_function(CHOSEN, arg="large.png")
    height, width = ask(page, "[danet.view.height, danet.view.width]")
    assert 0.9 * LIMITS.pixels <= height * width <= LIMITS.pixels
    assert width / height == pytest.approx(4 / 3, abs=0.01)
    assert [line for line in said if not line.startswith(f"{REFUSED} 413")] == []


def test_a_busy_server_is_asked_again(served: Served, server: str, browser_window, said, photograph: Path, screenshot):
    page = browser_window(server)
    with socket.create_connection(("127.0.0.1", served.port)) as other:  # whose body never comes, in the one place
        other.sendall(b"POST /v1/attention HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
        page.wait_for_timeout(300)
        page.locator("input[type=file]").first.set_input_files(photograph)
        page.wait_for_function("() => document.querySelector('.status').textContent.includes('busy')")
        screenshot(page, "busy")
    page.wait_for_function(CHOSEN, arg="street.png")
    assert page.locator(".status").inner_text() == ""
    assert all(line.startswith(f"{REFUSED} 503") for line in said)
    assert said


@pytest.mark.slow
def test_without_its_server_the_picture_goes_on_and_says_so(
    served: Served, browser_window, said, photograph: Path, screenshot
):
    with served.running() as address:
        page = browser_window(address)
        page.clock.install()
    page.clock.run_for(11_000)
    page.wait_for_function("() => document.querySelector('.status').textContent.includes('The server is gone')")
    before = shown(page)
    page.mouse.click(*at(page, (480, 640), 300, 300))
    page.clock.run_for(500)
    assert (shown(page) != before).any()
    assert "The server is gone" in page.locator(".status").inner_text()
    page.locator("input[type=file]").first.set_input_files(photograph)
    page.wait_for_timeout(300)
    screenshot(page, "gone")
    with served.running():
        page.clock.run_for(11_000)
        page.wait_for_function("() => document.querySelector('.status').textContent.includes('is back')")
        page.locator("input[type=file]").first.set_input_files(photograph)
        page.wait_for_function(CHOSEN, arg="street.png")
    assert all("ERR_CONNECTION_REFUSED" in line for line in said), said


def test_the_page_for_a_file_takes_an_answer_where_the_server_says(server: str, browser_window, said):
    page = browser_window(server)
    text = page.evaluate("() => fetch('stand-alone.html').then((reply) => reply.text())")
    assert text == stand_alone()
    assert text.count('<script type="application/danet" data-name=""></script>') == 1
    assert said == []
