"""What the attention page gives away, downloaded by a real browser and opened again: pictures, numbers, and itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from danet.data.labels import LabelSpace
from danet.viz.answer import AttentionView, ModelFacts, answer
from danet.viz.attention_page import attention_page
from tests.serving.process import serving
from tests.viz.test_page_learn import encoded, pixels
from tests.viz.views import SPACE, positioned, random_view

TOY = ModelFacts("street-tiny", "danet", "resnet18", "A toy.")
THIN = "\u202f"
KEPT = """
window.written = [];
const fill = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {
  written.push(text);
  fill.call(this, text, ...at);
};
"""
"""A script that keeps what is written onto canvases."""

HELD = (
    "() => { const { view, row } = document.querySelector('.attend').danet;"
    " return [Array.from(row(300)), Array.from(view.labels), view.position.gate]; }"
)
"""A row, the labels and the gate that a page holds."""

Open = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page's text, or an address; at the end nothing complained, and files had loaded nothing."""
    told: list[str] = []
    contexts = []

    def opened(text: str, address: str = "", **options) -> Page:
        if not text.startswith("http"):
            path = tmp_path / f"page-{len(contexts)}.html"
            path.write_text(text, encoding="utf-8")
            text = path.as_uri()
        settings = {"viewport": {"width": 1280, "height": 900}, "locale": "en"} | options
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.add_init_script(KEPT)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        if text.startswith("file:"):
            page.on("request", lambda request: told.append(request.url) if not known(request.url) else None)
        page.goto(text + address)
        page.wait_for_function("() => document.querySelector('.attend').danet")
        return page

    def known(url: str) -> bool:
        return url.startswith((tmp_path.as_uri(), "data:,", "blob:"))

    yield opened
    for context in contexts:
        context.close()
    assert told == []


def at(name: str, x: int, y: int, **others) -> str:
    return "#" + "&".join(f"{key}={value}" for key, value in {"image": name, "at": f"{x},{y}", **others}.items())


def download(page: Page, entry: str, folder: Path) -> Path:
    """The file that an entry of the menu gives, by the name that the page gives it."""
    if not page.locator(".share details").evaluate("e => e.open"):
        page.locator(".share summary").click()
    with page.expect_download() as found:
        page.get_by_role("button", name=entry).click()
    return saved(found.value, folder)


def saved(found, folder: Path) -> Path:
    path = folder / found.suggested_filename
    found.save_as(path)
    return path


def opened_picture(path: Path, mode: str = "RGB") -> np.ndarray:
    """The pixels of a file."""
    with Image.open(path) as picture:
        return np.asarray(picture if mode == "P" else picture.convert(mode)).astype(int)


def written(page: Page) -> list[str]:
    return page.evaluate("() => written")


def shown(page: Page) -> np.ndarray:
    """The picture of the page as its canvas has it."""
    return pixels(page.locator(".stages canvas"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_d_saves_a_card_with_the_map_and_what_it_says(opened: Open, tmp_path: Path, scheme):
    names = "road", "<b>&\"'ü", "tree", "nowhere"
    view = random_view(model=TOY, space=LabelSpace("four", names), shares=dict.fromkeys(names, 0.25))
    page = opened(attention_page([view], "t"), at("street.jpg", 30, 60), color_scheme=scheme)
    with page.expect_download() as found:
        page.locator(".stages canvas").press("d")
    path = saved(found.value, tmp_path)
    assert path.name == "street-30-60-looks-at-card.png"
    card = opened_picture(path)
    assert card.shape == (630, 1200, 3)
    ground = {"light": (251, 250, 247), "dark": (20, 22, 26)}[scheme]
    for corner in (card[:40], card[-46:], card[:, :48], card[:, -46:]):
        assert (corner == ground).all(), "nothing runs into the margin"
    factor = min(712 / 127, 534 / 75)
    across, down = round(127 * factor), round(75 * factor)
    picture = Image.fromarray(card[48 : 48 + down, 48 : 48 + across].astype(np.uint8)).resize(
        (127, 75), Image.Resampling.BOX
    )
    y, x = np.mgrid[:75, :127]
    far = np.hypot(x - 30, y - 60) > 5
    differs = np.abs(np.asarray(picture).astype(int) - shown(page)).max(-1) > 24
    assert differs[far].mean() < 0.05
    across, down = round(48 + 30.5 * factor), round(48 + 60.5 * factor)
    assert card[down, across + 13].min() > 250, "the place is ringed in white"
    assert card[down, across + 14 : across + 19].max(-1).min() < 60, "and dark, as no place of a white picture is"
    lines = written(page)
    assert {"position gate α = 0.42", f"share ‖αE‖/‖A‖ = 31{THIN}%", "street-tiny", "street.jpg", "danet"} <= set(lines)
    sentence = page.locator(".spoken")
    page.wait_for_function("() => document.querySelector('.spoken').textContent")
    assert "".join(sentence.inner_text().split()) in "".join("".join(lines).split())
    shares = page.locator(".class .figure").all_inner_texts()
    assert [line for line in lines if line.endswith(f"{THIN}%") and line[0].isdigit()]
    assert set(shares) >= {line for line in lines if line.endswith(f"{THIN}%") and line[0].isdigit()}


@pytest.mark.parametrize(("height", "width"), [(60, 240), (240, 60), (75, 127), (9, 12)])
def test_a_card_holds_pictures_of_any_shape(opened: Open, tmp_path: Path, height, width):
    view = random_view(labels=np.zeros((height, width), np.uint8), name="a" * 120, model=TOY)
    page = opened(attention_page([view], "t"))
    card = opened_picture(download(page, "Card", tmp_path))
    assert card.shape == (630, 1200, 3)
    for margin in (card[:40], card[-40:], card[:, :40], card[:, -40:]):
        assert (margin == (251, 250, 247)).all()
    assert any(line.startswith("position gate") for line in written(page))
    assert any(line.startswith("aaaa") and line.endswith("…") for line in written(page))


def test_a_shut_branch_is_told_on_every_map(opened: Open, tmp_path: Path):
    page = opened(attention_page([random_view(gate=-0.0031, share=0.0123)], "t"))
    for entry in ("Card", "Map as a picture"):
        page.evaluate("() => { written.length = 0 }")
        download(page, entry, tmp_path)
        told = " ".join(written(page))
        assert "gate α = \N{MINUS SIGN}0.003" in told
        assert f"= 1.2{THIN}%" in told
        assert "nearly shut" in told


def test_the_map_as_a_picture(opened: Open, tmp_path: Path):
    page = opened(attention_page([random_view()], "t"), at("street.jpg", 100, 20, direction="to", map="magma"))
    path = download(page, "Map as a picture", tmp_path)
    assert path.name == "street-100-20-looked-at-by-map.png"
    picture = opened_picture(path)
    assert picture.shape == (75 * 6 + 72, 127 * 6, 3)
    y, x = np.mgrid[:75, :127]
    far = np.hypot(x - 100, y - 20) > 5
    np.testing.assert_array_equal(picture[3 : 75 * 6 : 6, 3::6][far], shown(page)[far])
    assert (picture[3 : 75 * 6 : 6, 3::6][~far] != shown(page)[~far]).any()
    assert any("is looked at by" in line for line in written(page))


@pytest.mark.parametrize("direction", ["from", "to"])
def test_the_map_as_numbers_is_pythons(opened: Open, tmp_path: Path, direction):
    encoding = encoded("danet")
    page = opened(attention_page([encoding.view("Straße 道路.jpeg")], "t"))
    page.evaluate("hash => { location.hash = hash }", at("Straße 道路.jpeg", 44, 28, direction=direction))
    page.wait_for_function("() => document.querySelector('.attend').danet.state.x === 44")
    path = download(page, "JSON", tmp_path)
    assert path.name == f"Straße-道路-44-28-{'looks-at' if direction == 'from' else 'looked-at-by'}.json"
    told = json.loads(path.read_text("utf-8"))
    expected = encoding.attention((44, 28), direction)
    np.testing.assert_allclose(np.reshape(told["weights"], told["grid"]), expected, atol=1e-3 * expected.max())
    assert told["by_class"] == pytest.approx(encoding.by_class((44, 28), direction), abs=1e-3)
    trace = encoding.traces["position"]
    assert (told["gate"], told["share"]) == (trace.gate, pytest.approx(trace.share.item()))
    assert (told["name"], told["point"], told["direction"]) == ("Straße 道路.jpeg", [44, 28], direction)
    assert told["temperature"] == 1
    assert told["original_size"] == [72, 104]
    assert told["label"] == encoding.prediction.space.names[encoding.prediction.labels[28, 44]]


def test_a_map_at_another_temperature_says_so(opened: Open, tmp_path: Path):
    view = random_view()
    page = opened(attention_page([view], "t"), at("street.jpg", 30, 60, learn=1))
    page.locator(".marks button", has_text="transformer").click()
    told = json.loads(download(page, "JSON", tmp_path).read_text())
    place = 60 * 9 // 75 * 12 + 30 * 12 // 127
    energy = positioned(view).query[place].astype(np.float64) @ positioned(view).key.T / 8**0.5
    weights = np.exp(energy - energy.max())
    np.testing.assert_allclose(told["weights"], weights / weights.sum(), rtol=2e-3)
    assert told["temperature"] == pytest.approx(8**0.5)
    download(page, "Card", tmp_path)
    assert "τ = 2.83" in written(page)


def test_the_point_of_a_picture_shown_smaller_is_a_pixel_of_the_image(opened: Open, tmp_path: Path):
    view = random_view(image=np.full((213, 361, 3), 90, np.uint8))
    for x, y in ((0, 0), (126, 74), (10, 8), (11, 9), (63, 41), (95, 58)):
        page = opened(attention_page([view], "t"), at("street.jpg", x, y))
        told = json.loads(download(page, "JSON", tmp_path).read_text())
        across, down = told["point"]
        assert (across * 12 // 361, down * 9 // 213) == (x * 12 // 127, y * 9 // 75), "the same place"
        assert abs(across / 361 - x / 127) < 0.02
        assert abs(down / 213 - y / 75) < 0.02


def test_labels_are_an_image_of_indices_with_a_palette(opened: Open, tmp_path: Path):
    view = random_view()
    page = opened(attention_page([view], "t"))
    path = download(page, "PNG of classes", tmp_path)
    assert path.name == "street-labels.png"
    with Image.open(path) as labels:
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.asarray(labels), view.labels)
        np.testing.assert_array_equal(np.asarray(labels.convert("RGB")), SPACE.colour_image(view.labels))


def test_labels_over_the_image(opened: Open, tmp_path: Path):
    view = random_view(image=np.full((75, 127, 3), (200, 100, 50), np.uint8))
    page = opened(attention_page([view], "t"))
    path = download(page, "Labels over", tmp_path)
    assert path.name == "street-overlay.png"
    expected = 0.45 * np.array((200, 100, 50)) + 0.55 * SPACE.colour_image(view.labels)
    np.testing.assert_allclose(opened_picture(path), expected, atol=4)


def same(page: Page, view: AttentionView) -> None:
    """The page holds the view's answer."""
    held = page.evaluate(
        "() => { const { view } = document.querySelector('.attend').danet;"
        " return [view.name, Array.from(view.labels), Array.from(view.query), view.position.gate]; }"
    )
    assert held[0] == view.name
    np.testing.assert_array_equal(np.reshape(held[1], view.labels.shape), view.labels)
    np.testing.assert_allclose(np.reshape(held[2], positioned(view).query.shape), positioned(view).query, atol=1e-5)
    assert held[3] == positioned(view).gate


def test_a_page_from_a_file_gives_itself_as_it_was(opened: Open, tmp_path: Path):
    views = [random_view(), random_view(energy=5.0, name="second </script> \"'& ü")]
    text = attention_page(views, "About <these>")
    page = opened(text, at("street.jpg", 30, 60, learn=1))
    page.locator(".learn .marks button").first.wait_for()
    path = download(page, "This page", tmp_path)
    assert path.name == "street-attention.html"
    again = opened(path.read_text("utf-8"))
    assert again.title() == "About <these>"
    assert again.locator(".attend").count() == again.locator(".stages canvas").count() == 1
    same(again, views[0])
    again.get_by_role("button", name="second").click()
    again.wait_for_function("() => document.querySelector('.attend').danet.view.name.startsWith('second')")
    same(again, views[1])
    third = download(again, "This page", tmp_path / "again")
    assert third.read_text("utf-8") == path.read_text("utf-8"), "and so on"


def test_a_page_from_a_file_gives_an_answer_that_it_was_given_as_well(opened: Open, tmp_path: Path):
    own, other = random_view(), random_view(energy=5.0, name="a \"</script>&lt;'.jpg")
    (tmp_path / "other.safetensors").write_bytes(answer(other))
    page = opened(attention_page([own], "t"))
    page.locator("input[type=file]").first.set_input_files(tmp_path / "other.safetensors")
    page.wait_for_function("() => document.querySelectorAll('.tab').length === 2")
    page.wait_for_function("() => document.querySelector('.attend').danet.view.name.startsWith('a ')")
    again = opened(download(page, "This page", tmp_path).read_text("utf-8"))
    same(again, other)
    again.get_by_role("button", name="street.jpg").click()
    again.wait_for_function("() => document.querySelector('.attend').danet.view.name === 'street.jpg'")
    same(again, own)


@pytest.mark.slow
def test_a_served_page_gives_a_file_with_the_answer_shown(opened: Open, tmp_path: Path):
    with serving(tmp_path) as server:
        page = opened(f"http://127.0.0.1:{server.port}/")
        page.get_by_role("button", name="twin").click()
        page.wait_for_function("() => document.querySelector('.attend').danet.view.name === 'twin'")
        path = download(page, "This page", tmp_path)
        card = opened_picture(download(page, "Card", tmp_path))
        labels = opened_picture(download(page, "PNG of classes", tmp_path), "P")
        one = page.evaluate(HELD)
        page.close()
    assert path.name == "twin-attention.html"
    assert card.shape == (630, 1200, 3)
    again = opened(path.read_text("utf-8"))
    assert again.locator(".tab").all_inner_texts() == ["twin"]
    other = again.evaluate(HELD)
    assert one == other
    np.testing.assert_array_equal(labels.ravel(), one[1])


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_and_the_rest_works(chromium: Browser, tmp_path: Path):
    page = chromium.new_page(locale="en")
    with serving(tmp_path) as server:
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_function("() => document.querySelector('.attend').danet")
        server.end()
        page.locator(".share summary").click()
        page.get_by_role("button", name="This page").click()
        page.locator(".told", has_text="could not be made").wait_for()
        assert opened_picture(download(page, "Card", tmp_path)).shape == (630, 1200, 3)
    page.context.close()


def test_the_menu_works_by_keys(opened: Open, tmp_path: Path):
    page = opened(attention_page([random_view()], "t"))
    focused = "() => document.activeElement.textContent"
    place = page.evaluate("() => document.querySelector('.attend').danet.state.place")
    page.locator(".share summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.closest('li')")
    entries = page.locator(".share li").all_inner_texts()
    assert len(entries) == 6
    for key, entry in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("ArrowUp", 0), ("ArrowUp", 5)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == entries[entry]
    with page.expect_download() as found:
        page.keyboard.press("Enter")
    assert saved(found.value, tmp_path).name == "street-labels.png"
    page.locator(".told", has_text="Saved street-labels.png").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "Share"
    assert not page.locator(".share li").first.is_visible()
    assert page.evaluate("() => document.querySelector('.attend').danet.state.place") == place
    page.locator(".share summary").click()
    page.mouse.click(5, 5)
    assert not page.locator(".share details").evaluate("e => e.open"), "a click elsewhere closes it"


def test_a_model_without_maps_shares_labels(opened: Open, tmp_path: Path):
    page = opened(attention_page([encoded("fcn").view("n.png")], "t"))
    page.locator(".share summary").click()
    page.locator(".share li").first.wait_for()
    assert len(page.locator(".share li").all_inner_texts()) == 4
    path = download(page, "Card", tmp_path)
    assert path.name == "n-labels-card.png"
    assert opened_picture(path).shape == (630, 1200, 3)
    assert not any("α" in line for line in written(page))


def test_it_is_in_chinese_for_those_who_read_it(opened: Open, tmp_path: Path):
    page = opened(attention_page([random_view(model=TOY)], "t"), locale="zh-CN")
    page.locator(".share summary").click()
    assert page.locator(".share summary").inner_text() == "分享"
    page.locator(".share li").first.wait_for()
    assert all("\u4e00" <= entry[0] <= "\u9fff" for entry in page.locator(".share li").all_inner_texts())
    with page.expect_download() as found:
        page.get_by_role("button", name="卡片").click()
    assert opened_picture(saved(found.value, tmp_path)).shape == (630, 1200, 3)
    assert any("门控" in line for line in written(page))
