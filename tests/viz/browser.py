"""What tests of the attention page do with it in a browser."""

from base64 import b64decode
from io import BytesIO

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page

PICTURE = ".stages canvas"


def ask(page: Page, question: str, argument: object = None):
    """`question` as an expression on `danet`, what the page offers to scripts."""
    return page.evaluate(
        f"at => {{ const danet = document.querySelector('.attend').danet; return {question} }}", argument
    )


def settled(page: Page) -> None:
    """After the next two frames all is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def at(page: Page, size: tuple[int, ...], x: int, y: int, picture: int = 0) -> tuple[float, float]:
    """Where the middle of a pixel of the picture is on the screen."""
    box = page.locator(PICTURE).nth(picture).bounding_box()
    assert box is not None
    return box["x"] + (x + 0.5) / size[1] * box["width"], box["y"] + (y + 0.5) / size[0] * box["height"]


def click(page: Page, size: tuple[int, ...], x: int, y: int, picture: int = 0) -> None:
    """In the middle of a pixel of the picture."""
    page.mouse.click(*at(page, size, x, y, picture))
    settled(page)


def pixels(canvas: Locator) -> np.ndarray:
    """The pixels of a canvas, RGB."""
    png = canvas.evaluate("c => c.toDataURL()").split(",")[1]
    return np.asarray(Image.open(BytesIO(b64decode(png))).convert("RGB")).astype(int)


def shown(page: Page) -> np.ndarray:
    """The big picture."""
    return pixels(page.locator(PICTURE).first)
