"""The attention page in a real browser: the same numbers as Python's, by mouse, touch and keys, and nothing loaded."""

import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from danet.data.labels import LabelSpace
from danet.inference.segmenter import Segmenter
from danet.ops.position import position_attention, position_attention_columns, position_attention_rows
from danet.viz.attention import attention_overlay, caption, heat
from danet.viz.attention_page import AttentionView, attention_page, pack, write_attention_page
from danet.viz.report import ReportData, write_report

NASTY = "a</script><script>alert(1)</script><!--\"'& Straße ü"
SPACE = LabelSpace("four", ("road", NASTY, "tree", "nowhere"))
AWAY = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}


def random_view(energy: float = 3.0, depth: int = 8, grid: tuple[int, int] = (9, 12), **changes) -> AttentionView:
    """Random queries and keys, far from 0, whose energies scatter by `energy`; places are 8×10 pixels."""
    generator = np.random.default_rng(0)
    places = grid[0] * grid[1]
    query, key = (generator.normal(size=(places, depth)).astype(np.float32) for _ in range(2))
    key = key * np.float32(energy / depth**0.5) + generator.normal(size=depth).astype(np.float32)
    query += generator.normal(size=depth).astype(np.float32)
    _, logsumexp = position_attention(*map(torch.from_numpy, (query, key, query)), return_logsumexp=True)
    height, width = grid[0] * 8 + 3, grid[1] * 10 + 7  # a place's border falls between pixels
    image = np.zeros((height, width, 3), np.uint8)  # black, so that the light alone is seen
    labels = generator.integers(0, 3, (height, width), np.uint8)[::5, ::5].repeat(5, 0).repeat(5, 1)[:height, :width]
    view = AttentionView("street.jpg", image, labels, SPACE, grid, query, key, logsumexp.numpy(), 0.42, 0.31)
    return view._replace(**changes)


def python_row(view: AttentionView, place: int) -> np.ndarray:
    return position_attention_rows(torch.from_numpy(view.query), torch.from_numpy(view.key), place)[0].numpy()


def python_column(view: AttentionView, place: int) -> np.ndarray:
    query, key, logsumexp = map(torch.from_numpy, (view.query, view.key, view.logsumexp))
    return position_attention_columns(query, key, logsumexp, place)[:, 0].numpy()


def by_class(view: AttentionView, weights: np.ndarray) -> np.ndarray:
    """Share of the weight of each class, pixel by pixel."""
    height, width = view.labels.shape
    rows, columns = (np.arange(height) * view.grid[0] // height), (np.arange(width) * view.grid[1] // width)
    places = rows[:, None] * view.grid[1] + columns
    light = (weights / np.bincount(places.ravel()))[places]
    return np.bincount(view.labels.ravel(), light.ravel(), view.space.num_classes) / weights.sum()


def lit(view: AttentionView, weights: np.ndarray) -> np.ndarray:
    """The light that Python's pictures show for these weights."""
    relative = Image.fromarray(weights.reshape(view.grid) / weights.max())
    return heat(np.asarray(relative.resize(view.labels.shape[::-1], Image.Resampling.BILINEAR)))


Open = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page's text from disk; at the end it must have loaded nothing else and complained of nothing."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def opened(text: str, **options) -> Page:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("() => [...document.querySelectorAll('.attend')].every((element) => element.danet)")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert len(asked) == len(contexts)
    assert all(re.match(r"file://.*/page\.html", address) for address in asked)


def ask(page: Page, question: str, argument: object = None):
    """`question` as an expression on `danet`, what the first map of the page offers to scripts."""
    return page.evaluate(
        f"at => {{ const danet = document.querySelector('.attend').danet; return {question} }}", argument
    )


def settled(page: Page) -> None:
    """After the next two frames all is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def click(page: Page, view: AttentionView, x: int, y: int) -> None:
    """In the middle of a pixel of the picture."""
    box = page.locator("canvas").bounding_box()
    assert box is not None
    height, width = view.labels.shape
    page.mouse.click(box["x"] + (x + 0.5) / width * box["width"], box["y"] + (y + 0.5) / height * box["height"])
    settled(page)


def light(canvas: Locator) -> np.ndarray:
    """The pixels of a canvas, RGB."""
    png = canvas.evaluate("c => c.toDataURL()").split(",")[1]
    return np.asarray(Image.open(BytesIO(b64decode(png))).convert("RGB")).astype(int)


@pytest.mark.parametrize("energy", [3.0, 8.0, 32.0])
def test_all_rows_and_columns_are_pythons_to_a_thousandth_of_the_rows_maximum(opened: Open, energy: float):
    view = random_view(energy, depth=16, grid=(20, 31))
    page = opened(attention_page(view, "t"))
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
    pool, key = pool.reshape(len(windows), 70), view.key[: len(windows)]
    energy = view.query.astype(np.float64) @ key.T
    logsumexp = np.log(np.exp(energy).sum(1))
    page = opened(attention_page(view._replace(key=key, logsumexp=logsumexp.astype(np.float32), pool=pool), "t"))
    rows = np.exp(energy - logsumexp[:, None]) @ pool
    assert np.abs(asked_of_all(page, "row") - rows).max() <= 1e-3 * rows.max()
    assert np.abs(asked_of_all(page, "column").T - rows).max() <= 1e-3 * rows.max()
    assert rows.sum(1) == pytest.approx(1)


def asked_of_all(page: Page, direction: str) -> np.ndarray:
    """What the page has as row or column of every place, one after the other."""
    ask(page, "window.all = new Float32Array(danet.view.places ** 2)")
    ask(page, "all.forEach((_, i) => i % danet.view.places || all.set(danet[at](i / danet.view.places), i))", direction)
    letters = ask(page, "btoa(Array.from(new Uint8Array(all.buffer), (byte) => String.fromCharCode(byte)).join(''))")
    return np.frombuffer(b64decode(letters), "<f4").reshape(-1, ask(page, "danet.view.places"))


def test_it_shows_what_a_network_with_open_gates_attends_to(opened: Open, tiny):
    with torch.no_grad():
        tiny.model.head.position.query.weight.mul_(1000)  # untrained, it looks at all places alike
    image = np.random.default_rng(0).integers(0, 256, (72, 104, 3), np.uint8)
    encoding = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32").encode(image)
    page = opened(attention_page(encoding.view("noise"), "t"))
    rows = asked_of_all(page, "row")
    for x, y in ((5, 70), (103, 0), (50, 33)):
        expected = encoding.attention((x, y)).ravel()
        place = encoding.place((x, y), encoding.traces["position"].grid)
        agrees = np.abs(rows - expected).max(1) <= 1e-3 * expected.max()
        assert agrees.nonzero()[0].tolist() == [place], "and no other place's row does"


def test_at_first_paint_a_place_is_chosen_and_its_map_drawn(opened: Open):
    view = random_view()
    page = opened(attention_page(view, "t"))
    state = ask(page, "danet.state")
    weights = python_row(view, state["y"] * 9 // 75 * 12 + state["x"] * 12 // 127)
    assert np.abs(light(page.locator("canvas")) - lit(view, weights)).max() <= 2
    assert page.locator(".point").inner_text() == SPACE.names[view.labels[state["y"], state["x"]]]


def test_it_opens_where_attention_goes_to_another_class(opened: Open):
    view = random_view()
    labels = (np.arange(127) * 12 // 127 >= 6).astype(np.uint8)[None].repeat(75, 0)
    query, key = np.zeros_like(view.query), np.zeros_like(view.key)
    key[np.arange(108) % 12 >= 6, 0] = 1
    query[5 * 12 + 2 : 5 * 12 + 4, 0] = 20  # these two look at the right half, the others at all
    logsumexp = np.log(np.exp(query @ key.T).sum(1))
    page = opened(attention_page(view._replace(labels=labels, query=query, key=key, logsumexp=logsumexp), "t"))
    assert ask(page, "[danet.state.x, danet.state.y]") in ([26, 45], [37, 45])
    assert sorted(page.locator(".figure").all_inner_texts()) == ["100\u202f%", "< 1\u202f%"]


def test_the_picture_is_grey_and_dimmed_under_the_light_as_in_pythons(opened: Open):
    y, x = np.mgrid[:75, :127]
    image = np.stack([2 * x, 3 * y, 255 - x - y], -1).astype(np.uint8)
    page = opened(attention_page(random_view(image=image), "t"))
    state = ask(page, "danet.state")
    at = state["x"], state["y"]
    weights = python_row(random_view(), at[1] * 9 // 75 * 12 + at[0] * 12 // 127)
    expected = np.asarray(attention_overlay(image, weights.reshape(9, 12), at)).astype(int)
    away = np.hypot(y - at[1], x - at[0]) > 8  # from the ring, which is no part of the canvas
    assert np.abs(light(page.locator("canvas")) - expected)[away].max() <= 4


def test_a_click_asks_the_place_under_it_and_the_light_is_pythons(opened: Open):
    view = random_view()
    page = opened(attention_page(view, "t"), viewport={"width": 1200, "height": 800})
    for x, y in ((0, 0), (126, 74), (10, 8), (11, 9), (63, 41)):
        click(page, view, x, y)
        weights = python_row(view, y * 9 // 75 * 12 + x * 12 // 127)
        assert np.abs(light(page.locator("canvas")) - lit(view, weights)).max() <= 2
        assert page.locator(".point").inner_text() == SPACE.names[view.labels[y, x]]
        ring, stage = (page.locator(name).bounding_box() for name in (".ring", ".stage"))
        assert ring is not None
        assert stage is not None
        assert (ring["x"] + ring["width"] / 2 - stage["x"]) / stage["width"] == pytest.approx((x + 0.5) / 127, abs=2e-3)
        assert (ring["y"] + ring["height"] / 2 - stage["y"]) / stage["height"] == pytest.approx(
            (y + 0.5) / 75, abs=2e-3
        )


def test_dragging_moves_the_map_and_letting_go_ends_it(opened: Open):
    view = random_view()
    page = opened(attention_page(view, "t"))
    box = page.locator("canvas").bounding_box()
    assert box is not None

    def move(x: float, y: float) -> np.ndarray:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        settled(page)
        return light(page.locator("canvas"))

    before = move(0.2, 0.2)
    page.mouse.down()
    pictures = [move(0.3, 0.3), move(0.6, 0.81), move(1.5, 0.81)]
    assert (ask(page, "danet.state.x"), ask(page, "danet.state.y")) == (126, 60), "beyond the edge is its last pixel"
    page.mouse.up()
    np.testing.assert_array_equal(move(0.1, 0.1), pictures[-1])
    assert len({picture.tobytes() for picture in [before, *pictures]}) == 4


def test_a_finger_chooses_and_does_not_scroll(opened: Open):
    view = random_view()
    page = opened(attention_page(view, "t"), has_touch=True, viewport={"width": 400, "height": 500})
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 0.999 * box["width"], box["y"] + 0.001 * box["height"])
    settled(page)
    assert (ask(page, "danet.state.x"), ask(page, "danet.state.y")) == (126, 0)
    assert page.locator("canvas").evaluate("c => getComputedStyle(c).touchAction") == "none"


def test_the_keys_alone_do_everything(opened: Open):
    view = random_view()
    page = opened(attention_page(view, "t"))
    click(page, view, 63, 41)
    column, row = 63 * 12 // 127, 41 * 9 // 75
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", *["ArrowDown"] * 9):
        page.keyboard.press(key)
        column, row = column + AWAY[key][0], min(row + AWAY[key][1], 8)
        settled(page)
        assert ask(page, "[danet.state.x, danet.state.y]") == [
            int((column + 0.5) * 127 / 12),
            int((row + 0.5) * 75 / 9),
        ]
    looks_at = light(page.locator("canvas"))
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.get_by_label("is looked at by").is_checked()
    weights = python_column(view, row * 12 + column)
    looked_at = light(page.locator("canvas"))
    assert np.abs(looked_at - lit(view, weights)).max() <= 2
    assert (looked_at != looks_at).any()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    settled(page)
    colours = 0.5 * SPACE.colour_image(view.labels)
    screened = 255 - (255 - colours) * (255 - lit(view, weights)) / 255
    assert np.abs(light(page.locator("canvas")) - screened).max() <= 3


def test_an_arrow_moves_by_a_place_where_a_place_is_barely_wider_than_a_pixel(opened: Open):
    picture = np.zeros((20, 31), np.uint8)
    labels = (np.arange(31) * 29 // 31 % 2).astype(np.uint8)[None].repeat(20, 0)  # places are road and nasty by turns
    view = random_view(grid=(17, 29), image=np.stack([picture] * 3, -1), labels=labels)
    page = opened(attention_page(view, "t"))
    click(page, view, 0, 0)
    for key, step, times in (("ArrowRight", 1, 28), ("ArrowDown", 29, 16), ("ArrowLeft", -1, 3), ("ArrowUp", -29, 3)):
        for _ in range(times):
            before = ask(page, "danet.state.place")
            page.keyboard.press(key)
            settled(page)
            place, x, y = ask(page, "[danet.state.place, danet.state.x, danet.state.y]")
            assert place == before + step
            assert (y * 17 // 20, x * 29 // 31) == divmod(place, 29)
            assert page.locator(".point").inner_text() == SPACE.names[place % 29 % 2]


def test_places_of_a_padded_network_are_cells_of_its_pixels(opened: Open):
    image = np.zeros((61, 160, 3), np.uint8)  # in places of 14×14 pixels: the last ones reach beyond it
    labels = np.random.default_rng(1).integers(0, 3, (61, 160), np.uint8)
    view = random_view(grid=(5, 12), image=image, labels=labels, span=(61 / 14, 160 / 14))
    page = opened(attention_page(view, "t"))
    y, x = np.mgrid[:61, :160] // 14
    for at in ((0, 0), (13, 27), (14, 28), (42, 56), (159, 60)):
        click(page, view, *at)
        place = at[1] // 14 * 12 + at[0] // 14
        assert ask(page, "danet.state.place") == place
        weights = python_row(view, place)
        enlarged = Image.fromarray(weights.reshape(5, 12) / weights.max()).resize((168, 70), Image.Resampling.BILINEAR)
        assert np.abs(light(page.locator("canvas")) - heat(np.asarray(enlarged))[:61, :160]).max() <= 2
        each = (weights / np.bincount((12 * y + x).ravel()))[12 * y + x]
        shares = np.bincount(labels.ravel(), each.ravel())[np.argsort(-np.bincount(labels.ravel()))]
        bars = page.locator(".bar").evaluate_all("bars => bars.map((b) => +b.style.getPropertyValue('--share'))")
        np.testing.assert_allclose(bars, shares, atol=1e-3)
    for key, step, pixel in (("ArrowLeft", 58, [147, 60]), ("ArrowUp", 46, [147, 49]), ("ArrowLeft", 45, [133, 49])):
        page.keyboard.press(key)
        settled(page)
        assert ask(page, "[danet.state.place, danet.state.x, danet.state.y]") == [step, *pixel]


def test_weight_on_a_place_of_which_the_picture_shows_no_pixel_is_not_lost(opened: Open):
    labels = np.zeros((20, 31), np.uint8)
    labels[-1] = 2
    view = random_view(grid=(5, 12), image=np.zeros((20, 31, 3), np.uint8), labels=labels, span=(4.01, 12.0))
    query, key = np.ones_like(view.query), np.zeros_like(view.key)
    key[50] = 100
    page = opened(attention_page(view._replace(query=query, key=key, logsumexp=query @ key[50]), "t"))
    click(page, view, 0, 0)
    shown = dict(
        zip(page.locator(".bars .name").all_inner_texts(), page.locator(".figure").all_inner_texts(), strict=True)
    )
    assert shown == {"road": "0\u202f%", "tree": "100\u202f%"}


def test_a_place_that_nothing_looks_at_is_told_as_such(opened: Open):
    view = random_view()
    query, key = np.zeros_like(view.query), np.zeros_like(view.key)
    query[:, 0], key[50, 0] = 100, -2  # an energy of -200 where the others are 0
    view = view._replace(query=query, key=key, logsumexp=np.full(108, np.log(107), np.float32))
    assert not python_column(view, 50).any()
    page = opened(attention_page(view, "t"))
    page.get_by_label("is looked at by").check()
    click(page, view, 26, 37)
    assert ask(page, "danet.state.place") == 50
    assert set(page.locator(".figure").all_inner_texts()) == {"0\u202f%"}
    assert page.locator(".places b").inner_text() == "0 of 108 places"
    assert page.locator(".top").inner_text() == "0 × average"
    assert (light(page.locator("canvas")) == lit(view, np.eye(108)[0])[-1, -1]).all()
    own = SPACE.names[view.labels[37, 26]]
    page.wait_for_function("() => document.querySelector('.spoken').textContent.includes('is looked at by')")
    assert page.locator(".spoken").text_content() == f"{own} is looked at by nothing."


def test_hardly_any_light_is_told_in_few_figures(opened: Open):
    view = random_view()
    page = opened(attention_page(view._replace(logsumexp=view.logsumexp + 50), "t"))
    page.get_by_label("is looked at by").check()
    settled(page)
    assert page.locator(".top").inner_text() == "< 0.01 × average"


def test_the_figures_beside_the_map_are_pythons(opened: Open):
    view = random_view()
    page = opened(attention_page(view, "t"))
    click(page, view, 30, 60)
    place = 60 * 9 // 75 * 12 + 30 * 12 // 127
    for label, weights in (("looks at", python_row(view, place)), ("is looked at by", python_column(view, place))):
        page.get_by_label(label, exact=True).check()
        settled(page)
        shares = by_class(view, weights)
        assert shares[3] == 0
        shown = dict(
            zip(page.locator(".bars .name").all_inner_texts(), page.locator(".figure").all_inner_texts(), strict=True)
        )
        assert shown == {SPACE.names[k]: f"{100 * shares[k]:.0f}\u202f%" for k in range(3)}
        bars = page.locator(".bar").evaluate_all("bars => bars.map((b) => +b.style.getPropertyValue('--share'))")
        order = np.argsort(-np.bincount(view.labels.ravel())[:3])
        np.testing.assert_allclose(bars, shares[order], atol=1e-3)
        even = weights / weights.sum()
        assert f"≈ {np.exp(-(even * np.log(even)).sum()):.0f} of 108 places" in page.locator(".places").inner_text()
        assert page.locator(".top").inner_text() == f"{float(f'{108 * weights.max():.2g}'):g} × average"
    page.wait_for_function("() => document.querySelector('.spoken').textContent.includes('is looked at by')")
    most = f"{100 * shares.max():.0f}\u202f% {SPACE.names[shares.argmax()]}, "
    own = SPACE.names[view.labels[60, 30]]
    assert (page.locator(".spoken").text_content() or "").startswith(f"{own} is looked at by {most}")


def test_a_map_never_stands_alone(opened: Open):
    def beside(gate: float, share: float) -> list[str]:
        page = opened(attention_page(random_view(gate=gate, share=share), "t"))
        return [line.replace("\N{NO-BREAK SPACE}", " ") for line in page.locator(".notes li").all_inner_texts()]

    assert beside(0.42, 0.31) == ["position gate α = 0.42", "share ‖αE‖/‖A‖ = 31 %"]
    shut = beside(-0.0031, 0.0123)
    assert " · ".join(shut[:3]) == caption(-0.0031, 0.0123)
    assert shut[2:] == [
        "this branch is nearly shut; its map explains little",
        "the gate is negative: what is gathered is subtracted",
    ]


def test_names_from_outside_stay_text(opened: Open):
    view = random_view(name=NASTY)
    page = opened(attention_page(view, f"About {NASTY}"))
    assert page.title() == page.locator("h1").inner_text() == f"About {NASTY}"
    assert NASTY in page.locator(".bars .name").all_inner_texts()
    assert (page.locator("canvas").get_attribute("aria-label") or "").startswith(NASTY)
    assert page.locator("script").count() == 2


def test_no_screen_scrolls_sideways_and_narrow_ones_have_the_figures_below(opened: Open):
    page = opened(attention_page(random_view(), "t"))
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


def test_light_and_dark_grounds_have_legible_ink(opened: Open):
    page = opened(attention_page(random_view(), "t"))
    for scheme, ground in (("light", (251, 250, 247)), ("dark", (20, 22, 26))):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == f"rgb{ground}"
        for name in (".point", ".direction label", ".figure", ".key", ".places", ".scale", ".overlay", ".notes"):
            colour = page.locator(name).first.evaluate("e => getComputedStyle(e).color")
            assert contrast(tuple(map(int, re.findall(r"\d+", colour))), ground) >= 4.5, name


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """As WCAG 2 has it."""

    def luminance(colour: tuple[int, ...]) -> float:
        share = np.array(colour) / 255
        return float(
            np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        )

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_several_maps_of_a_report_live_beside_each_other(opened: Open, tmp_path: Path):
    views = [random_view(energy, name=name) for name, energy in (("first", 2.0), ("second", 4.0))]
    path = write_report(tmp_path / "report.html", ReportData("Run", SPACE, attention=views))
    page = opened(path.read_text("utf-8"), viewport={"width": 1200, "height": 800})
    assert page.locator(".attend figcaption").all_inner_texts() == ["first", "second"]
    still, moved = page.locator("canvas").all()
    before = light(still)
    moved.press("ArrowRight")
    page.get_by_label("is looked at by").nth(1).check()
    settled(page)
    second = page.locator(".attend").nth(1)
    state = second.evaluate("e => e.danet.state")
    weights = python_column(views[1], state["y"] * 9 // 75 * 12 + state["x"] * 12 // 127)
    assert np.abs(light(moved) - lit(views[1], weights)).max() <= 2
    np.testing.assert_array_equal(light(still), before)
    assert page.get_by_label("looks at", exact=True).nth(0).is_checked()


def test_a_page_of_360_by_480_with_64_channels_has_at_most_a_megabyte_and_a_half(tmp_path: Path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 60, 3), np.uint8))
    labels = np.random.default_rng(1).integers(0, 3, (45, 60), np.uint8).repeat(8, 0).repeat(8, 1)
    view = random_view(depth=64, grid=(45, 60), image=np.asarray(image.resize((480, 360))), labels=labels)
    path = write_attention_page(tmp_path / "page.html", view, "t")
    assert path.stat().st_size <= 1_500_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_a_large_image_is_shown_smaller_with_a_pixel_at_least_for_each_place():
    def size(height: int, width: int, grid: tuple[int, int]) -> tuple[int, int]:
        picture = np.zeros((height, width), np.uint8)
        packed = pack(random_view(grid=grid, labels=picture, image=np.stack([picture] * 3, -1)))
        return packed["height"], packed["width"]

    assert size(1500, 2048, (24, 32)) == (750, 1024)
    assert size(100, 1024, (4, 32)) == (100, 1024)
    assert size(32, 12000, (4, 128)) == (4, 1024)


def test_a_network_that_diverged_has_no_page():
    view = random_view()
    with pytest.raises(ValueError, match="non-finite"):
        attention_page(view._replace(key=view.key * np.float32(np.inf)), "t")
