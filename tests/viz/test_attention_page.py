"""The attention page in a real browser: the same numbers as Python's, by mouse, touch and keys, and nothing loaded."""

import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page

from danet.inference.segmenter import Segmenter
from danet.models.segmentation import create_model
from danet.viz.answer import ModelFacts, answer
from danet.viz.attention import caption
from danet.viz.attention_page import (
    MODULES,
    SHEETS,
    attention_page,
    page_file,
    script,
    stand_alone,
    write_attention_page,
)
from danet.viz.report import ReportData, write_report
from tests.conftest import NAMES
from tests.viz.browser import PICTURE, ask, at, click, pixels, settled, shown
from tests.viz.views import (
    NASTY,
    SPACE,
    by_class,
    lightness,
    lit,
    places_of,
    positioned,
    python_column,
    python_row,
    random_view,
)

AWAY = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}

Open = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page's text from disk; at the end it must have loaded nothing else and complained of nothing."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def opened(text: str, address: str = "", **options) -> Page:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en"} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri() + address)
        page.wait_for_function("() => [...document.querySelectorAll('.attend')].every((element) => element.danet)")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    asked = [address for address in asked if address != "data:,"]
    assert len(asked) == len(contexts)
    assert all(re.match(r"file://.*/page\.html", address) for address in asked)


def place_at(view, x: int, y: int) -> int:
    return int(places_of(view)[y, x])


def figures(page: Page, name: str = "figure") -> dict[str, str]:
    """What is written beside each class."""
    names = page.locator(".classes .name").all_inner_texts()
    return dict(zip(names, page.locator(f".class .{name}").all_inner_texts(), strict=True))


def meters(page: Page) -> list[float]:
    return page.locator(".meter").evaluate_all("all => all.map((e) => +e.style.getPropertyValue('--share'))")


# Numbers


@pytest.mark.parametrize("energy", [3.0, 8.0, 32.0])
def test_all_rows_and_columns_are_pythons_to_a_thousandth_of_the_rows_maximum(opened: Open, energy: float):
    view = random_view(energy, depth=16, grid=(20, 31))
    page = opened(attention_page([view]))
    places = range(20 * 31)
    rows = np.stack([python_row(view, place) for place in places])
    columns = np.stack([python_column(view, place) for place in places], axis=1)
    allowed = 1e-3 * rows.max(1, keepdims=True)
    assert (np.abs(asked_of_all(page, "row") - rows) <= allowed).all()
    assert (np.abs(asked_of_all(page, "column").T - columns) <= allowed).all()


def test_keys_that_stand_for_windows_are_spread_over_them_as_in_python(opened: Open):
    view = random_view(3.0, depth=8, grid=(7, 10))
    windows = [(0, 7, 0, 10), (0, 4, 0, 5), (0, 4, 5, 10), (3, 7, 0, 5), (3, 7, 5, 10)]  # rows 3 lie in two of them
    pool = np.zeros((len(windows), 7, 10), np.float32)
    for number, (above, below, left, right) in enumerate(windows):
        pool[number, above:below, left:right] = 1 / ((below - above) * (right - left))
    pool, key = pool.reshape(len(windows), 70), positioned(view).key[: len(windows)]
    energy = positioned(view).query.astype(np.float64) @ key.T
    logsumexp = np.log(np.exp(energy).sum(1))
    windowed = random_view(
        3.0, depth=8, grid=(7, 10), key=key, value=key[:, :3], logsumexp=logsumexp.astype(np.float32), pool=pool
    )
    page = opened(attention_page([windowed]))
    rows = np.exp(energy - logsumexp[:, None]) @ pool
    assert np.abs(asked_of_all(page, "row") - rows).max() <= 1e-3 * rows.max()
    assert np.abs(asked_of_all(page, "column").T - rows).max() <= 1e-3 * rows.max()
    assert rows.sum(1) == pytest.approx(1)
    click(page, view.labels.shape, 50, 30)
    page.get_by_role("button", name="Take away").click()
    settled(page)
    best = int(energy[place_at(view, 50, 30)].argmax())  # round(0.1 · 5) is 0, and one at least is taken
    assert "without its 1 most attended" in page.locator(".taken").inner_text()
    inside = pool[best][places_of(view)] > 0
    striped = striped_in(shown(page))
    assert striped[inside].mean() > 0.9
    assert not striped[~inside].any()


def striped_in(picture: np.ndarray) -> np.ndarray:
    """Where the picture is darker than any light on white leaves it, or a stripe's white."""
    dark = (picture < 120).all(-1)
    near = np.zeros_like(dark)
    for shift in range(-3, 4):
        near |= np.roll(dark, shift, 1) & (np.roll(dark, shift - 3, 1) | np.roll(dark, shift + 3, 1))
    return dark | (near & ((picture >= 225).all(-1)))


def asked_of_all(page: Page, direction: str) -> np.ndarray:
    """What the page has as row or column of every place, one after the other."""
    ask(page, "window.all = new Float32Array(danet.view.places ** 2)")
    ask(page, "all.forEach((_, i) => i % danet.view.places || all.set(danet[at](i / danet.view.places), i))", direction)
    letters = ask(page, "btoa(Array.from(new Uint8Array(all.buffer), (byte) => String.fromCharCode(byte)).join(''))")
    return np.frombuffer(b64decode(letters), "<f4").reshape(-1, ask(page, "danet.view.places"))


def test_it_shows_what_a_network_with_open_gates_attends_to_and_what_it_is_worth(opened: Open, tiny):
    with torch.no_grad():
        tiny.model.head.position.query.weight.mul_(1000)  # untrained, it looks at all places alike
        tiny.model.head.position.gate.fill_(5)
    image = np.random.default_rng(0).integers(0, 256, (72, 104, 3), np.uint8)
    encoding = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32").encode(image)
    view = encoding.view("noise")
    page = opened(attention_page([view]))
    rows = asked_of_all(page, "row")
    for x, y in ((5, 70), (103, 0), (50, 33)):
        expected = encoding.attention((x, y)).ravel()
        place = encoding.place((x, y), encoding.traces["position"].grid)
        agrees = np.abs(rows - expected).max(1) <= 1e-3 * expected.max()
        assert agrees.nonzero()[0].tolist() == [place], "and no other place's row does"
        click(page, image.shape, x, y)
        shares = encoding.by_class((x, y))
        for name, figure in figures(page).items():
            assert figure in (f"{100 * shares[name]:.0f}\u202f%", "< 1\u202f%")
    page.get_by_role("button", name="Take away").click()
    position = positioned(view)
    for x, y in ((5, 70), (103, 0), (50, 33), (90, 60)):
        click(page, image.shape, x, y)
        for line, labels, confidence in (
            (0, view.labels, view.confidence),
            (1, position.taken.labels, position.taken.confidence),
            (2, position.control.labels, position.control.confidence),
        ):
            told = page.locator(".taken dd").nth(line).inner_text().split("\n")
            assert told == [NAMES[labels[y, x]], f"{100 * int(confidence[y, x]) / 255:.0f}\u202f%"]
        row = encoding.attention((x, y)).ravel()
        count = round(0.1 * row.size)
        lost = np.sort(row)[::-1][:count].sum()
        assert f"without its {count} most attended" in page.locator(".taken").inner_text()
        assert f"{100 * lost:.0f}\u202f% of its attention" in page.locator(".taken .note").inner_text()


def test_a_network_without_position_attention_shows_its_labels_and_says_so(opened: Open, tiny):
    torch.manual_seed(0)
    model = create_model("cam", "resnet18", len(NAMES), out_indices=(2,), channels=32).eval()
    image = np.random.default_rng(0).integers(0, 256, (72, 104, 3), np.uint8)
    segmenter = Segmenter(model, tiny.labels, tiny.preprocess, "cpu", "float32")
    view = segmenter.encode(image).view("noise")
    page = opened(attention_page([view]))
    assert "has no position attention" in page.locator(".side").inner_text()
    assert page.locator(".direction, .scale, .taken, .meter").count() == 0
    click(page, image.shape, 80, 20)
    label = NAMES[view.labels[20, 80]]
    assert page.locator(".point .name").inner_text() == label
    page.wait_for_function("(name) => document.querySelector('.spoken').textContent.startsWith(name)", arg=label)
    colours = view.space.colour_image(view.labels)
    jpeg = 0.4 * image + 0.6 * colours
    assert np.abs(shown(page) - jpeg).mean() < 12
    page.get_by_text("Channels", exact=True).click()
    assert page.locator(".thumb").count() == len(view.channel.indices if view.channel else [])
    for key in ("ArrowRight", " ", "l", "l"):
        page.locator(PICTURE).press(key)
    settled(page)


# The picture


def test_at_first_paint_a_place_is_chosen_and_its_map_drawn(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    state = ask(page, "({x: danet.state.x, y: danet.state.y})")
    weights = python_row(view, place_at(view, state["x"], state["y"]))
    assert np.abs(shown(page) - lit(view, weights)).max() <= 2
    assert page.locator(".point .name").inner_text() == SPACE.names[view.labels[state["y"], state["x"]]]


def test_it_opens_where_attention_goes_to_another_class(opened: Open):
    view = random_view()
    labels = (np.arange(127) * 12 // 127 >= 6).astype(np.uint8)[None].repeat(75, 0)
    query, key = np.zeros((108, 8), np.float32), np.zeros((108, 8), np.float32)
    key[np.arange(108) % 12 >= 6, 0] = 1
    query[5 * 12 + 2 : 5 * 12 + 4, 0] = 20  # these two look at the right half, the others at all
    logsumexp = np.log(np.exp(query @ key.T).sum(1))
    view = random_view(labels=labels, query=query, key=key, logsumexp=logsumexp)
    page = opened(attention_page([view]))
    assert ask(page, "[danet.state.x, danet.state.y]") in ([26, 45], [37, 45])
    assert sorted(figures(page).values()) == ["100\u202f%", "< 1\u202f%"]


def test_it_opens_where_attention_goes_to_a_rare_class_rather_than_a_common_one(opened: Open):
    column = np.arange(108) % 12
    classes = np.select([column < 4, column < 11], [0, 1], 2).astype(np.uint8)
    labels = classes[np.arange(127) * 12 // 127][None].repeat(75, 0)
    query, key = np.zeros((108, 8), np.float32), np.zeros((108, 8), np.float32)
    key[classes == 1, 0] = key[classes == 2, 1] = 1
    query[1 * 12 : 1 * 12 + 4, 0] = 20  # of road, one row looks at the common class
    query[5 * 12 : 5 * 12 + 4, 1] = 20  # and one below it at the rare
    logsumexp = np.log(np.exp(query @ key.T).sum(1))
    page = opened(attention_page([random_view(labels=labels, query=query, key=key, logsumexp=logsumexp)]))
    assert ask(page, "Math.floor(danet.state.place / 12)") == 5


def test_the_image_is_dimmed_and_has_its_light_back_where_a_place_looks(opened: Open):
    y, x = np.mgrid[:75, :127]
    image = np.stack([2 * x, 3 * y, 255 - x - y], -1).astype(np.uint8)
    view = random_view(energy=8.0, image=image)
    page = opened(attention_page([view]))
    click(page, image.shape, 30, 40)
    light = lightness(python_row(view, place_at(view, 30, 40)))[places_of(view)]
    assert min((light == 0).sum(), (light > 0.8).sum()) > 50
    grey = image @ (0.3, 0.59, 0.11)
    dimmed = 0.55 * (0.35 * image + 0.65 * grey[..., None])
    assert np.abs(shown(page) - dimmed)[light == 0].max() <= 8  # the picture is a JPEG
    again = image / 255
    screened = again + 0.6 * (again - again**2)
    lamp = np.array([54, 46, 30]) / 255
    full = 255 * (1 - (1 - screened) * (1 - lamp))
    expected = dimmed + light[..., None] * (full - dimmed)
    assert np.abs(shown(page) - expected).max() <= 10


def test_magma_colours_blocks_by_the_same_scale(opened: Open):
    view = random_view(energy=8.0)
    page = opened(attention_page([view]))
    click(page, view.labels.shape, 30, 40)
    page.get_by_label("magma").check()
    settled(page)
    stops = np.array(
        [(0, 0, 4), (29, 17, 71), (81, 18, 124), (131, 38, 129), (183, 55, 121), (231, 82, 99), (252, 137, 97),
         (254, 196, 136), (252, 253, 191)]
    )  # fmt: skip
    light = lightness(python_row(view, place_at(view, 30, 40)))[places_of(view)]
    colour = np.stack([np.interp(light, np.linspace(0, 1, 9), stop) for stop in stops.T], -1)
    assert np.abs(shown(page) - (0.25 * 140 + 0.75 * colour)).max() <= 3
    assert "linear-gradient(90deg, rgb(0, 0, 4), " in page.locator(".ramp").evaluate("e => e.style.background")


def test_the_scale_has_numbers_that_hold_for_all_points(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    assert page.locator(".ticks span").all_inner_texts() == ["¼", "1", "4", "16", "64"]
    lefts = page.locator(".ticks span").evaluate_all("all => all.map((e) => parseFloat(e.style.left))")
    np.testing.assert_allclose(lefts, 100 * lightness(np.array([0.25, 1, 4, 16, 64]) / 5))
    for x, y in ((10, 8), (63, 41)):
        click(page, view.labels.shape, x, y)
        weights = python_row(view, place_at(view, x, y))
        left = page.locator(".ramp i").evaluate("e => parseFloat(e.style.left)")
        assert left == pytest.approx(100 * lightness(weights).max(), abs=0.1)
        assert page.locator(".most").inner_text() == f"at most {float(f'{108 * weights.max():.2g}'):g}\u202f×"


def test_a_click_asks_the_place_under_it_and_the_light_is_its_map(opened: Open):
    view = random_view()
    page = opened(attention_page([view]), viewport={"width": 1200, "height": 800})
    for x, y in ((0, 0), (126, 74), (10, 8), (11, 9), (63, 41)):
        click(page, view.labels.shape, x, y)
        weights = python_row(view, place_at(view, x, y))
        assert np.abs(shown(page) - lit(view, weights)).max() <= 2
        assert page.locator(".point .name").inner_text() == SPACE.names[view.labels[y, x]]
        sure = f"{100 * int(view.confidence[y, x]) / 255:.0f}\u202f%"
        assert page.locator(".point .confidence").inner_text() in (f"{sure} sure", "< 1\u202f% sure")
        ring, stage = (page.locator(name).bounding_box() for name in (".stage .ring", ".stage"))
        assert ring is not None
        assert stage is not None
        assert (ring["x"] + ring["width"] / 2 - stage["x"]) / stage["width"] == pytest.approx((x + 0.5) / 127, abs=2e-3)
        assert (ring["y"] + ring["height"] / 2 - stage["y"]) / stage["height"] == pytest.approx(
            (y + 0.5) / 75, abs=2e-3
        )


def test_dragging_moves_the_map_and_letting_go_ends_it(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    box = page.locator(PICTURE).bounding_box()
    assert box is not None

    def move(x: float, y: float) -> np.ndarray:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        settled(page)
        return shown(page)

    before = move(0.2, 0.2)
    page.mouse.down()
    pictures = [move(0.3, 0.3), move(0.6, 0.81), move(1.05, 0.81)]
    assert (ask(page, "danet.state.x"), ask(page, "danet.state.y")) == (126, 60), "beyond the edge is its last pixel"
    page.mouse.up()
    np.testing.assert_array_equal(move(0.1, 0.1), pictures[-1])
    assert len({picture.tobytes() for picture in [before, *pictures]}) == 4


def test_a_finger_chooses_and_does_not_scroll(opened: Open):
    view = random_view()
    page = opened(attention_page([view]), has_touch=True, viewport={"width": 400, "height": 500})
    box = page.locator(PICTURE).bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 0.999 * box["width"], box["y"] + 0.001 * box["height"])
    settled(page)
    assert (ask(page, "danet.state.x"), ask(page, "danet.state.y")) == (126, 0)
    assert page.locator(PICTURE).evaluate("c => getComputedStyle(c).touchAction") == "none"
    assert page.locator(".tip").inner_text() == ""


def test_the_keys_alone_do_everything(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    click(page, view.labels.shape, 63, 41)
    column, row = 63 * 12 // 127, 41 * 9 // 75
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", *["ArrowDown"] * 9):
        page.keyboard.press(key)
        column, row = column + AWAY[key][0], min(row + AWAY[key][1], 8)
        settled(page)
        assert ask(page, "[danet.state.x, danet.state.y]") == [
            int((column + 0.5) * 127 / 12),
            int((row + 0.5) * 75 / 9),
        ]
    looks_at = shown(page)
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.get_by_label("is looked at by").is_checked()
    assert page.locator(".stage .pin").count() == 1
    looked_at = shown(page)
    assert np.abs(looked_at - lit(view, python_column(view, row * 12 + column))).max() <= 2
    assert (looked_at != looks_at).any()
    page.keyboard.press("l")
    settled(page)
    assert page.locator(".learn h2").is_visible()
    page.keyboard.press("l")
    settled(page)
    assert not page.locator(".learn").is_visible()
    with page.expect_download() as download:
        page.keyboard.press("d")
    with Image.open(download.value.path()) as saved:
        assert saved.width >= 127
    for key in ("Control+l", "Control+d", "Alt+l"):
        page.keyboard.press(key)
    assert not page.locator(".learn").is_visible(), "a browser's own keys stay its own"


def test_an_arrow_moves_by_a_place_where_a_place_is_barely_wider_than_a_pixel(opened: Open):
    labels = (np.arange(31) * 29 // 31 % 2).astype(np.uint8)[None].repeat(20, 0)  # places are road and nasty by turns
    view = random_view(grid=(17, 29), labels=labels)
    page = opened(attention_page([view]))
    click(page, labels.shape, 0, 0)
    for key, step, times in (("ArrowRight", 1, 28), ("ArrowDown", 29, 16), ("ArrowLeft", -1, 3), ("ArrowUp", -29, 3)):
        for _ in range(times):
            before = ask(page, "danet.state.place")
            page.keyboard.press(key)
            settled(page)
            place, x, y = ask(page, "[danet.state.place, danet.state.x, danet.state.y]")
            assert place == before + step
            assert (y * 17 // 20, x * 29 // 31) == divmod(place, 29)
            assert page.locator(".point .name").inner_text() == SPACE.names[place % 29 % 2]


def test_places_of_a_padded_network_are_cells_of_its_pixels(opened: Open):
    labels = np.random.default_rng(1).integers(0, 3, (61, 160), np.uint8)  # in places of 14×14 pixels, cut at the edge
    view = random_view(grid=(5, 12), labels=labels, span=(61 / 14, 160 / 14))
    page = opened(attention_page([view]))
    y, x = np.mgrid[:61, :160] // 14
    places = 12 * y + x
    for point in ((0, 0), (13, 27), (14, 28), (42, 56), (159, 60)):
        click(page, labels.shape, *point)
        place = point[1] // 14 * 12 + point[0] // 14
        assert ask(page, "danet.state.place") == place
        weights = python_row(view, place)
        assert np.abs(shown(page) - lit(view, weights, places)).max() <= 2
        each = (weights / np.bincount(places.ravel(), minlength=60).clip(1))[places]
        shares = np.bincount(labels.ravel(), each.ravel())[np.argsort(-np.bincount(labels.ravel()))]
        np.testing.assert_allclose(meters(page), shares, atol=1e-3)
    for key, step, pixel in (("ArrowLeft", 58, [147, 60]), ("ArrowUp", 46, [147, 49]), ("ArrowLeft", 45, [133, 49])):
        page.keyboard.press(key)
        settled(page)
        assert ask(page, "[danet.state.place, danet.state.x, danet.state.y]") == [step, *pixel]


def test_weight_on_a_place_of_which_the_picture_shows_no_pixel_is_not_lost(opened: Open):
    labels = np.zeros((20, 31), np.uint8)
    labels[-1] = 2
    query, key = np.ones((60, 8), np.float32), np.zeros((60, 8), np.float32)
    key[50] = 100
    view = random_view(grid=(5, 12), labels=labels, span=(4.01, 12.0), query=query, key=key, logsumexp=query @ key[50])
    page = opened(attention_page([view]))
    click(page, labels.shape, 0, 0)
    assert figures(page) == {"road": "0\u202f%", "tree": "100\u202f%"}


def test_a_place_that_nothing_looks_at_is_told_as_such(opened: Open):
    query, key = np.zeros((108, 8), np.float32), np.zeros((108, 8), np.float32)
    query[:, 0], key[50, 0] = 100, -2  # an energy of -200 where the others are 0
    view = random_view(query=query, key=key, logsumexp=np.full(108, np.log(107), np.float32))
    assert not python_column(view, 50).any()
    page = opened(attention_page([view]))
    page.get_by_label("is looked at by").check()
    click(page, view.labels.shape, 26, 37)
    assert ask(page, "danet.state.place") == 50
    assert set(figures(page).values()) == {"0\u202f%"}
    assert page.locator(".places b").inner_text() == "0 of 108 places"
    assert page.locator(".most").inner_text() == "at most 0\u202f×"
    assert (np.abs(shown(page) - 140) <= 1).all(), "all is dark"
    own = SPACE.names[view.labels[37, 26]]
    page.wait_for_function("() => document.querySelector('.spoken').textContent.includes('is looked at by')")
    assert page.locator(".spoken").text_content() == f"{own} is looked at by nothing."


def test_hardly_any_light_is_told_in_few_figures(opened: Open):
    view = random_view()
    page = opened(attention_page([random_view(logsumexp=positioned(view).logsumexp + 50)]))
    page.get_by_label("is looked at by").check()
    settled(page)
    assert page.locator(".most").inner_text() == "at most < 0.01\u202f×"


# What is told beside it


def test_the_figures_beside_the_map_are_pythons(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    click(page, view.labels.shape, 30, 60)
    place = place_at(view, 30, 60)
    shares = np.zeros(4)
    for label, weights in (("looks at", python_row(view, place)), ("is looked at by", python_column(view, place))):
        page.get_by_label(label, exact=True).check()
        settled(page)
        shares = by_class(view, weights)
        assert shares[3] == 0
        assert figures(page) == {SPACE.names[k]: f"{100 * shares[k]:.0f}\u202f%" for k in range(3)}
        area = np.bincount(view.labels.ravel(), minlength=4) / view.labels.size
        assert figures(page, "area") == {SPACE.names[k]: f"{100 * area[k]:.0f}\u202f%" for k in range(3)}
        np.testing.assert_allclose(meters(page), shares[np.argsort(-area[:3])], atol=1e-3)
        even = weights / weights.sum()
        assert f"≈ {np.exp(-(even * np.log(even)).sum()):.0f} of 108 places" in page.locator(".places").inner_text()
    page.wait_for_function("() => document.querySelector('.spoken').textContent.includes('is looked at by')")
    most = f"{100 * shares.max():.0f}\u202f% {SPACE.names[shares.argmax()]}, "
    own = SPACE.names[view.labels[60, 30]]
    assert (page.locator(".spoken").text_content() or "").startswith(f"{own} is looked at by {most}")


def test_a_map_never_stands_alone(opened: Open):
    def beside(**changes) -> list[str]:
        page = opened(attention_page([random_view(**changes)]))
        return [line.replace("\u202f", " ") for line in page.locator(".notes li").all_inner_texts()]

    own = "pixels have maps of their own (mean cosine 0.50; 1 would be the same for all)"
    assert beside() == ["position gate α = 0.42", "share ‖αE‖/‖A‖ = 31 %", own]
    shut = beside(gate=-0.0031, share=0.0123, similarity=0.9712, model=ModelFacts("toy", "danet", "resnet18", "A toy."))
    assert " · ".join(shut[:3]) == caption(-0.0031, 0.0123)
    assert shut[2:] == [
        "this branch is nearly shut; its map explains little",
        "the gate is negative: what is gathered is subtracted",
        "every pixel’s map is nearly the same (mean cosine 0.97)",
        "toy · danet on resnet18",
        "A toy.",
    ]


def test_what_is_taken_away_is_striped_and_both_outcomes_are_told(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    click(page, view.labels.shape, 30, 60)
    page.get_by_role("button", name="Take away").click()
    settled(page)
    row = python_row(view, place_at(view, 30, 60))
    taken = np.isin(places_of(view), np.argsort(-row)[: round(10.8)])
    striped = striped_in(shown(page))
    assert striped[taken].mean() > 0.9
    assert not striped[~taken].any()
    lines = [line.split("\n") for line in page.locator(".taken dd").all_inner_texts()]
    maps = [(view.labels, view.confidence), positioned(view).taken, positioned(view).control]
    expected = [
        [SPACE.names[labels[60, 30]], f"{100 * int(confidence[60, 30]) / 255:.0f}\u202f%"]
        for labels, confidence in maps
    ]
    assert lines == expected
    page.get_by_role("button", name="Put it back").click()
    settled(page)
    assert np.abs(shown(page) - lit(view, row)).max() <= 2
    assert page.locator(".taken dl").is_hidden()


@pytest.mark.parametrize(("grid", "count"), [((5, 5), 2), ((5, 7), 4), ((4, 6), 2), ((1, 3), 1)])
def test_as_many_are_taken_away_as_python_takes(opened: Open, grid: tuple[int, int], count: int):
    page = opened(attention_page([random_view(grid=grid)]))
    page.get_by_role("button", name="Take away").click()
    settled(page)
    assert count == min(max(round(0.1 * grid[0] * grid[1]), 1), grid[0] * grid[1] // 2)
    assert f"without its {count} most attended" in page.locator(".taken").inner_text()


def test_pins_stay_and_two_can_stand_side_by_side(opened: Open):
    view = random_view()
    size = view.labels.shape
    page = opened(attention_page([view]))
    points = [(5, 4), (60, 40), (100, 70), (40, 20), (120, 10)]
    for number, point in enumerate(points, 1):
        click(page, size, *point)
        page.keyboard.press("Space")
        settled(page)
        assert page.locator(".stage .pin").all_inner_texts() == [str(n) for n in range(1, number + 1)]
    click(page, size, 80, 40)
    assert page.get_by_role("button", name="Pin this place").is_disabled(), "there are five"
    colours = page.locator(".stage .pin").evaluate_all("all => all.map((e) => getComputedStyle(e).backgroundColor)")
    assert colours == [f"rgb{rgb}" for rgb in (
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167)
    )]  # fmt: skip
    page.get_by_role("button", name="Go to pin 2").click()
    page.get_by_role("button", name="Go to pin 4").click()
    page.get_by_label("two side by side").check()
    settled(page)
    for number, pin in ((0, 1), (1, 3)):
        expected = lit(view, python_row(view, place_at(view, *points[pin])))
        assert np.abs(pixels(page.locator(PICTURE).nth(number)) - expected).max() <= 2
    captions = page.locator(".stages figcaption").all_inner_texts()
    assert [text[0] for text in captions] == ["②", "④"]
    assert all("of 108 places" in text for text in captions)
    page.get_by_label("is looked at by").check()
    click(page, size, 11, 70, picture=0)  # the second pin moves; the fourth is looked at now
    page.get_by_label("is looked at by").check()
    settled(page)
    moved = lit(view, python_column(view, place_at(view, 11, 70)))
    assert np.abs(pixels(page.locator(PICTURE).nth(0)) - moved).max() <= 2
    other = lit(view, python_column(view, place_at(view, *points[3])))
    assert np.abs(pixels(page.locator(PICTURE).nth(1)) - other).max() <= 2
    page.get_by_role("button", name="Unpin this place").click()
    settled(page)
    assert page.locator(PICTURE).nth(1).is_hidden()
    assert page.locator(".stage").first.locator(".pin").count() == 4
    assert np.abs(shown(page) - moved).max() <= 2


def test_labels_lie_over_the_picture_as_strong_as_asked_and_one_class_alone(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    click(page, view.labels.shape, 63, 41)
    base = lit(view, python_row(view, place_at(view, 63, 41)))
    colours = SPACE.colour_image(view.labels).astype(int)
    for opacity in (0.5, 1.0):
        page.locator(".opacity input").fill(str(opacity))
        settled(page)
        assert np.abs(shown(page) - ((1 - opacity) * base + opacity * colours)).max() <= 3
    page.locator(".opacity input").fill("0")
    page.get_by_role("button", name="Show tree alone").or_(page.locator(".class", has_text="tree")).first.click()
    settled(page)
    tree = (view.labels == 2)[..., None]
    assert np.abs(shown(page) - np.where(tree, 0.4 * base + 0.6 * colours, base)).max() <= 3
    assert page.locator(".class[aria-pressed=true] .name").all_inner_texts() == ["tree"]
    page.locator(".class", has_text="tree").click()
    settled(page)
    assert np.abs(shown(page) - base).max() <= 2


def test_hovering_tells_class_and_confidence(opened: Open):
    view = random_view()
    page = opened(attention_page([view]))
    for x, y in ((3, 4), (120, 70)):
        page.mouse.move(*at(page, view.labels.shape, x, y))
        told = f"{SPACE.names[view.labels[y, x]]} {100 * int(view.confidence[y, x]) / 255:.0f}\u202f%"
        assert page.locator(".tip").inner_text() == told
        tip, stage = (page.locator(name).bounding_box() for name in (".tip", ".stage"))
        assert tip is not None
        assert stage is not None
        for side, extent in (("x", "width"), ("y", "height")):
            assert stage[side] <= tip[side]
            assert tip[side] + tip[extent] <= stage[side] + stage[extent]
    page.mouse.move(1, 1)
    assert not page.locator(".tip").is_visible()


def test_channels_show_what_each_draws_on(opened: Open):
    view = random_view()
    assert view.channel is not None
    page = opened(attention_page([view]))
    page.get_by_text("Channels", exact=True).click()
    assert "3 of 40 channels" in page.locator(".channels").inner_text()
    page.get_by_role("button", name="Channel 39").click()
    assert page.locator(".draws").inner_text() == "Channel 39 draws on 1 (75\u202f%), 3 (25\u202f%)"
    before, after = (pixels(page.locator(".large canvas").nth(number)) for number in (0, 1))
    low, extent = view.channel.before[2].min(), np.ptp(view.channel.before[2])
    for picture, values in ((before, view.channel.before[2]), (after, view.channel.after[2])):
        assert np.abs(picture - 255 * np.clip((values - low) / extent, 0, 1)[..., None]).max() <= 1
    assert "β = −0.050, share ‖βE‖/‖A‖ = 1.3\u202f%" in page.locator(".channels").inner_text()


# The page around it


def test_the_address_keeps_image_point_and_view(opened: Open):
    views = [random_view(name="first"), random_view(8.0, name=f"second {NASTY}")]
    text = attention_page(views)
    page = opened(text)
    page.get_by_role("button", name="second").click()
    page.wait_for_function("() => document.querySelector('.attend').danet.view.name.startsWith('second')")
    click(page, views[1].labels.shape, 20, 33)
    page.get_by_label("is looked at by").check()
    page.get_by_label("magma").check()
    page.locator(".opacity input").fill("0.25")
    page.get_by_role("button", name="Take away").click()
    page.wait_for_function("() => location.hash.includes('taken')")
    address = page.evaluate("() => location.hash")
    again = opened(text, address)
    np.testing.assert_array_equal(shown(again), shown(page))
    assert again.locator(".tab[aria-pressed=true]").inner_text() == f"second {NASTY}"
    assert again.locator(".taken dl").is_visible()
    for nonsense in ("#image=first&at=1000,5&direction=up&map=jet&labels=7&isolated=99", "#image=gone", "#%", "#at=1"):
        ordinary = opened(text, nonsense)
        assert ask(ordinary, "danet.view.name") == "first"
        assert ask(ordinary, "[danet.state.direction, danet.state.map, danet.state.labels]") == ["from", "light", 0]
        assert ask(ordinary, "danet.state.x < 127 && danet.state.y < 75 && danet.state.isolated === null")


def test_another_image_keeps_the_point_for_comparison(opened: Open):
    views = [random_view(name="scene"), random_view(8.0, name="twin"), random_view(grid=(5, 6), name="small")]
    page = opened(attention_page(views))
    click(page, views[0].labels.shape, 20, 33)
    page.get_by_role("button", name="twin").click()
    page.wait_for_function("() => document.querySelector('.attend').danet.view.name === 'twin'")
    assert ask(page, "[danet.state.x, danet.state.y]") == [20, 33]
    assert np.abs(shown(page) - lit(views[1], python_row(views[1], place_at(views[1], 20, 33)))).max() <= 2
    page.get_by_role("button", name="small").click()
    page.wait_for_function("() => document.querySelector('.attend').danet.view.name === 'small'")
    assert ask(page, "danet.state.place") < 30


def test_an_answer_can_be_opened_and_an_image_is_told_what_it_needs(opened: Open, tmp_path: Path):
    view = random_view(8.0, name="other")
    good, bad, image = tmp_path / "other.safetensors", tmp_path / "bad.safetensors", tmp_path / "street.png"
    body = answer(view)
    good.write_bytes(body)
    bad.write_bytes(body[: len(body) // 2])
    Image.fromarray(view.image).save(image)
    page = opened(stand_alone())
    assert "holds no answer yet" in page.locator(".status").inner_text()
    chooser = page.locator("input[type=file]")
    chooser.set_input_files(image)
    assert "run danet serve" in page.locator(".status").inner_text()
    chooser.set_input_files(bad)
    page.wait_for_function("() => document.querySelector('.status').textContent.includes('bad.safetensors')")
    chooser.set_input_files(good)
    page.wait_for_selector(".tab[aria-pressed=true]")
    assert page.locator(".tab[aria-pressed=true]").inner_text() == "other.safetensors"
    assert page.locator(".status").inner_text() == ""
    weights = python_row(view, ask(page, "danet.state.place"))
    assert np.abs(shown(page) - lit(view, weights)).max() <= 2


def test_a_file_can_be_dropped_or_pasted(opened: Open):
    page = opened(attention_page([random_view()]))
    for kind, field in (("DragEvent('drop'", "dataTransfer"), ("ClipboardEvent('paste'", "clipboardData")):
        page.evaluate(
            f"""() => {{
              const transfer = new DataTransfer();
              transfer.items.add(new File(["x"], "{field}.png", {{ type: "image/png" }}));
              document.body.dispatchEvent(new {kind}, {{ {field}: transfer, bubbles: true, cancelable: true }}));
            }}"""
        )
        assert f"{field}.png is an image" in page.locator(".status").inner_text()


def test_names_from_outside_stay_text(opened: Open):
    view = random_view(name=NASTY, model=ModelFacts(NASTY, NASTY, NASTY, NASTY))
    page = opened(attention_page([view], f"About {NASTY}"))
    assert page.title() == page.locator("h1").inner_text() == f"About {NASTY}"
    assert NASTY in page.locator(".classes .name").all_inner_texts()
    assert page.locator(".tab").inner_text() == NASTY
    assert (page.locator(PICTURE).get_attribute("aria-label") or "").startswith(NASTY)
    page.keyboard.press("l")
    assert page.locator("script").count() == 2


def test_a_browser_in_chinese_has_the_page_in_chinese(opened: Open):
    page = opened(attention_page([random_view()]), locale="zh-CN")
    assert page.locator("h1").inner_text() == "点一个像素，看它在看哪里"
    assert page.evaluate("document.documentElement.lang") == "zh"
    assert page.locator(".direction").inner_text().split() == ["在看", "被谁看"]
    page.wait_for_function("() => document.querySelector('.spoken').textContent.includes(' 在看 ')")


def test_every_text_is_there_in_both_languages_with_the_same_parts():
    words = re.sub(r'" \+\n\s+"', "", page_file("words.js"))
    tables = {
        language: dict(
            re.findall(r'^  (\w+):\s+"(.*)",$', words.split(f"const {language} = {{")[1].split("\n};")[0], re.M)
        )
        for language in ("ENGLISH", "CHINESE")
    }
    assert tables["ENGLISH"].keys() == tables["CHINESE"].keys()
    for key, text in tables["ENGLISH"].items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", tables["CHINESE"][key])), key
    saying = [name for name in (*MODULES, "network") if name != "words"]
    others = "".join(page_file(f"{name}.js") for name in saying) + page_file("index.html")
    said = set(re.findall(r'(?:say\(|data-say=|[:,?] )"(\w+)"', others))
    dynamic = {key for key in tables["ENGLISH"] if key.startswith(("learn_", "share_", "sentence_", "sharing_"))}
    unsaid = tables["ENGLISH"].keys() - said - dynamic - set(re.findall(r"\w+", others))
    assert not unsaid, "texts that nobody says"


def test_no_screen_scrolls_sideways_and_narrow_ones_have_the_figures_below(opened: Open):
    page = opened(attention_page([random_view()]))
    for learning in (False, True):
        for width in (320, 400, 819, 1280):
            page.set_viewport_size({"width": width, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            picture, side = (page.locator(name).bounding_box() for name in (".stage", ".side"))
            assert picture is not None
            assert side is not None
            if width <= 820:
                assert side["y"] >= picture["y"] + picture["height"]
                assert picture["width"] == pytest.approx(width - 36, abs=1)
            else:
                assert side["x"] >= picture["x"] + picture["width"]
                assert side["width"] == 280
        if not learning:
            page.locator(PICTURE).press("l")


TEXTS = (
    ".point .confidence", ".direction label", ".classes .head span", ".class .figure", ".class .area", ".places",
    ".places b", ".ticks span", ".told", ".opacity", ".toggle", ".beside", ".taken dt", ".taken dd", ".note", ".notes",
    ".tab", ".status", "summary", ".draws", "figcaption", "h1", ".attend-page > p",
)  # fmt: skip


def test_light_and_dark_grounds_have_legible_ink(opened: Open):
    page = opened(attention_page([random_view()], "t"))
    page.locator(PICTURE).press(" ")
    page.get_by_role("button", name="Take away").click()
    page.get_by_text("Channels", exact=True).click()
    for scheme, ground in (("light", (251, 250, 247)), ("dark", (20, 22, 26))):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == f"rgb{ground}"
        for name in TEXTS:
            colour = page.locator(name).first.evaluate("e => getComputedStyle(e).color")
            assert contrast(numbers(colour), ground) >= 4.5, f"{name} on {scheme}"
        for part in ("before", "after"):
            colour = page.locator(".meter").first.evaluate(f"e => getComputedStyle(e, '::{part}').backgroundColor")
            assert contrast(numbers(colour), ground) >= 3, f"a meter's {part} on {scheme}"
        for name, field in ((".toggle", "borderTopColor"), (".tab[aria-pressed=true]", "borderBottomColor")):
            colour = page.locator(name).first.evaluate(f"e => getComputedStyle(e).{field}")
            assert contrast(numbers(colour), ground) >= 3, f"{name} on {scheme}"
    for pin in page.locator(".chip").all():
        ink, disc = pin.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
        assert contrast(numbers(ink), numbers(disc)) >= 4.5


def numbers(colour: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", colour)[:3]))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """As WCAG 2 has it."""

    def luminance(colour: tuple[int, ...]) -> float:
        share = np.array(colour) / 255
        return float(
            np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        )

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_all_that_can_be_used_has_a_name_and_can_be_reached(opened: Open):
    page = opened(attention_page([random_view()]))
    page.locator(PICTURE).press(" ")
    settled(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, canvas[tabindex], summary")].filter((element) => {
          const label = element.closest("label")?.textContent || element.textContent;
          return !(element.getAttribute("aria-label") || label || element.title).trim();
        }).map((element) => element.outerHTML)"""
    )
    assert nameless == []
    picture = page.locator(PICTURE)
    assert picture.get_attribute("role") == "application"
    assert picture.get_attribute("tabindex") == "0"


def test_the_maps_of_a_report_share_one_picture(opened: Open, tmp_path: Path):
    views = [random_view(energy, name=name) for name, energy in (("first", 2.0), ("second", 4.0))]
    path = write_report(tmp_path / "report.html", ReportData("Run", SPACE, attention=views))
    page = opened(path.read_text("utf-8"), viewport={"width": 1200, "height": 800})
    assert page.locator(".attend .tab").all_inner_texts() == ["first", "second"]
    page.locator(".tab", has_text="second").click()
    page.wait_for_function("() => document.querySelector('.attend').danet.view.name === 'second'")
    click(page, views[1].labels.shape, 30, 40)
    page.get_by_label("is looked at by").check()
    settled(page)
    assert np.abs(shown(page) - lit(views[1], python_column(views[1], place_at(views[1], 30, 40)))).max() <= 2
    box = page.locator(PICTURE).bounding_box()
    assert box is not None
    assert box["width"] > 650, "the report's own styles leave the page's parts alone"
    assert page.locator("input[type=file]").count() == 0
    page.wait_for_timeout(500)
    assert page.evaluate("location.hash") == "", "the address is the report's"
    page.locator("h1").click()
    page.keyboard.press("l")
    assert not page.locator(".learn").is_visible(), "keys are the picture's while it has the focus"


# The file


def test_the_file_holds_all_it_needs_and_allows_nothing_else():
    text = attention_page([random_view()], "t")
    assert "page/" not in text
    assert not re.search(r"<link[^>]+stylesheet|\ssrc=|style=\"|https?://(?!www\.w3\.org/)|@import|url\(", text)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy


def test_the_modules_join_into_one_script():
    names: dict[str, str] = {}
    for module in MODULES:
        text = str(page_file(f"{module}.js"))
        for line in text.splitlines():
            if line.startswith("import "):
                found = re.fullmatch(r'import \{ ([\w, ]+) \} from "\./(\w+)\.js";', line)
                assert found, f"{module}.js: {line}"
                assert found[2] in MODULES[: MODULES.index(module)], (
                    f"{module}.js imports {found[2]}.js, which is later"
                )
                for name in found[1].split(", "):
                    assert re.search(
                        rf"^export (async )?(function|const|class) {name}\b", page_file(f"{found[2]}.js"), re.M
                    )
        assert "export default" not in text
        for name in re.findall(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", text, re.M):
            assert name not in names, f"{module}.js and {names.get(name)}.js both have {name}"
            names[name] = module
    assert "</script" not in script()
    index = page_file("index.html")
    assert [f"page/{name}.css" for name in SHEETS] == re.findall(r'href="(page/\w+\.css)"', index)


def test_a_page_of_360_by_480_with_64_channels_has_at_most_two_megabytes_and_a_half(tmp_path: Path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 60, 3), np.uint8))
    labels = np.random.default_rng(1).integers(0, 3, (45, 60), np.uint8).repeat(8, 0).repeat(8, 1)
    smooth = (np.add.outer(np.arange(360), np.arange(480)) % 256).astype(np.uint8)  # a network's varies little
    view = random_view(
        depth=64, grid=(45, 60), image=np.asarray(image.resize((480, 360))), labels=labels, confidence=smooth
    )
    position = positioned(view)
    view = view._replace(
        position=position._replace(
            taken=position.taken._replace(confidence=smooth), control=position.control._replace(confidence=smooth)
        )
    )
    path = write_attention_page(tmp_path / "page.html", [view], "t")
    assert path.stat().st_size <= 2_500_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_a_network_that_diverged_has_no_page():
    with pytest.raises(ValueError, match="not finite"):
        attention_page([random_view(key=np.full((108, 8), np.nan, np.float32))])
