"""The lesson of the attention page in a real browser: every number, bar and colour of its seven steps is Python's."""

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
from safetensors.numpy import load

from danet.config import Head, Preprocess
from danet.data.labels import LabelSpace
from danet.inference.encoding import Encoding
from danet.inference.segmenter import Segmenter
from danet.models.attention import Attention, PositionAttention
from danet.models.compact import CompactPositionAttention
from danet.models.segmentation import create_model
from danet.ops.channel import channel_attention_map
from danet.viz.attention_page import attention_page
from tests.serving.process import serving
from tests.viz.views import positioned, random_view

NASTY = "<b>&\"'Straße"
SPACE = LabelSpace("three", ("road", NASTY, "tree"))
MAGMA = np.array(
    [
        0,
        0,
        4,
        29,
        17,
        71,
        81,
        18,
        124,
        131,
        38,
        129,
        183,
        55,
        121,
        231,
        82,
        99,
        252,
        137,
        97,
        254,
        196,
        136,
        252,
        253,
        191,
    ]
).reshape(9, 3)
THIN = "\u202f"
Open = Callable[..., Page]


def encoded(head: Head, **settings) -> Encoding:
    """Noise of 72×104 pixels, 9×13 places, as a random network with open gates and energies that differ sees it."""
    torch.manual_seed(0)
    model = create_model(head, "resnet18", 3, out_indices=(2,), channels=64, **settings).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Attention):
                module.gate.fill_(0.5)
            if isinstance(module, PositionAttention | CompactPositionAttention):
                module.query.weight.mul_(30)
                module.key.weight.mul_(3)
        model.get_parameter("head.classifier.weight").mul_(30)
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return Segmenter(model, SPACE, Preprocess(), "cpu", "float32").encode(image)


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    return encoded("danet")


@pytest.fixture(scope="module")
def page_text(encoding: Encoding) -> str:
    return attention_page([encoding.view("n")], "t")


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page's text from disk, with the lesson; at the end nothing was loaded and nothing complained of."""
    told: list[str] = []
    contexts = []

    def opened(text: str, at: tuple[int, int] = (44, 28), **options) -> Page:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if request.url != page.url else None)
        page.goto(f"{path.as_uri()}#image=n&at={at[0]},{at[1]}")
        page.wait_for_function("() => document.querySelector('.attend').danet")
        page.locator(".stage canvas").press("l")
        page.wait_for_selector(".learn ol", state="attached")
        settled(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in told if not re.match(r"file://.*/page\.html|blob:", text)] == []


def settled(page: Page) -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")
    page.evaluate("() => new Promise((done) => setTimeout(done, 50))")


def text(page: Page, selector: str) -> str:
    return page.locator(f".learn {selector}").inner_text()


def pixels(canvas: Locator) -> np.ndarray:
    png = canvas.evaluate("c => c.toDataURL()").split(",")[1]
    return np.asarray(Image.open(BytesIO(b64decode(png))).convert("RGB")).astype(int)


def bars(chart: Locator) -> np.ndarray:
    """Heights of a chart's bars, of at most 1."""
    path = chart.locator("path").last.get_attribute("d") or ""
    return -np.array([float(end) for end in re.findall(r"V(-?[\d.]+)", path)])


def point_at(page: Page, plate: str, place: int, grid: tuple[int, int] = (9, 13)) -> None:
    """The mouse over the middle of a place of a plate."""
    page.locator(f".learn {plate} .plate").scroll_into_view_if_needed()
    box = page.locator(f".learn {plate} .plate").bounding_box()
    assert box is not None
    row, column = divmod(place, grid[1])
    page.mouse.move(
        box["x"] + (column + 0.5) / grid[1] * box["width"], box["y"] + (row + 0.5) / grid[0] * box["height"]
    )


def energies(encoding: Encoding, place: int) -> np.ndarray:
    query, key, *_ = (tensor[0].double().numpy() for tensor in encoding.position)
    return key @ query[place]


def softmax(energy: np.ndarray) -> np.ndarray:
    weights = np.exp(energy - energy.max())
    return weights / weights.sum()


def percent(share: float | np.floating) -> str:
    """Two figures, as the lesson writes shares."""
    return "< 0.01" if 0 < share < 5e-5 else f"{float(f'{100 * share:.2g}'):g}"


def colours(values: np.ndarray) -> np.ndarray:
    return np.floor(255 * np.clip(values, 0, 1) + 0.5).astype(int)


def rgb(page: Page, selector: str) -> np.ndarray:
    style = page.locator(f".learn {selector}").first.evaluate("e => getComputedStyle(e).backgroundColor")
    return np.array(re.findall(r"\d+", style)[:3], int)


def test_seven_steps_of_a_sentence_an_equation_and_a_picture(opened: Open, page_text: str):
    page = opened(page_text)
    steps = page.locator(".learn > ol > li")
    assert page.locator(".learn h3").all_inner_texts() == [
        "Features",
        "Query",
        "One dot product",
        "Softmax",
        "What is gathered",
        "The gate",
        "Channels",
    ]
    for step in steps.all():
        assert step.locator(".words p").count() == 1
        assert step.locator(".equation").first.get_attribute("aria-label")
        assert step.locator(":is(canvas, svg)").count() >= 1


def test_features_and_what_is_gathered_are_drawn_in_their_colours(opened: Open, encoding: Encoding, page_text: str):
    position = encoding.view().position
    assert position is not None
    page = opened(page_text)
    drawn = pixels(page.locator(".step-features canvas"))
    np.testing.assert_allclose(drawn, colours(position.features).reshape(9, 13, 3), atol=1)
    rows = np.stack([softmax(energies(encoding, place)) for place in range(9 * 13)])
    gathered = rows @ position.value
    np.testing.assert_allclose(
        pixels(page.locator(".step-gathered canvas")), colours(gathered).reshape(9, 13, 3), atol=1
    )
    place = 3 * 13 + 5
    np.testing.assert_allclose(rgb(page, ".swatch-features"), colours(position.features)[place], atol=1)
    np.testing.assert_allclose(rgb(page, ".swatch-gathered"), colours(gathered)[place], atol=1)
    page.locator(".marks button", has_text="transformer").click()
    settled(page)
    even = softmax(energies(encoding, place) / 8**0.5) @ position.value
    assert (colours(even) != colours(gathered)[place]).any()
    np.testing.assert_allclose(rgb(page, ".swatch-gathered"), colours(even), atol=1)


def test_the_query_is_as_many_bars_as_it_has_numbers(opened: Open, encoding: Encoding, page_text: str):
    query = encoding.position[0][0, 3 * 13 + 5].numpy()
    page = opened(page_text)
    np.testing.assert_allclose(bars(page.locator(".step-query .chart")), query / np.abs(query).max(), atol=1e-3)
    ends = [f"{'−' if end < 0 else '+'}{THIN}{abs(end):.2f}" for end in (query.min(), query.max())]
    assert text(page, ".step-query output") == " … ".join(ends)


def test_one_dot_product_is_pythons(opened: Open, encoding: Encoding, page_text: str):
    place = 3 * 13 + 5
    query, key = (tensor[0].numpy() for tensor in encoding.position[:2])
    energy = energies(encoding, place)
    weights = softmax(energy)
    page = opened(page_text)
    own = weights.copy()
    own[place] = 0
    told = []
    for other in (int(own.argmax()), place, 0, 116, int(energy.argmin())):
        if told:
            point_at(page, ".step-energy", other)
        settled(page)
        centred = key[other] - key.mean(0)
        products = query[place] * centred
        reach = np.abs(query[place] * np.abs(key - key.mean(0)).max(0)).max()
        np.testing.assert_allclose(bars(page.locator(".bars-product")), products / reach, atol=1e-3)
        above = energy[other] - energy.mean()
        assert float(re.sub(THIN, "", text(page, ".energy-above")).replace("−", "-")) == pytest.approx(above, abs=6e-3)
        assert products.sum() == pytest.approx(above, abs=1e-3)
        assert text(page, ".energy-weight") == f"{percent(weights[other])}{THIN}%"
        told.append(text(page, ".energy-above"))
    assert len(set(told)) == 5
    point_at(page, ".step-softmax", 20)
    settled(page)
    assert text(page, ".energy-weight") == f"{percent(weights[20])}{THIN}%", "any picture can be pointed at"


@pytest.mark.parametrize(("mark", "temperature"), [("DANet", 1.0), ("transformer", 8**0.5)])
def test_softmax_at_both_temperatures_is_pythons(opened: Open, encoding: Encoding, page_text: str, mark, temperature):
    page = opened(page_text)
    page.locator(".marks button", has_text=mark).click()
    settled(page)
    weights = softmax(energies(encoding, 3 * 13 + 5) / temperature)
    assert text(page, ".temperature") == f"τ = {temperature:.2f}"
    shared = np.exp(-(weights * np.log(weights)).sum())
    most = f"{float(f'{117 * weights.max():.2g}'):g}"
    assert text(page, ".softmax-count").startswith(f"≈ {shared:.0f} of 117 places")
    assert f" {most}{THIN}× the average" in text(page, ".softmax-count")
    light = np.clip(np.log(117 * weights / 0.25) / np.log(64 / 0.25), 0, 1) * 8
    expected = np.stack([np.interp(light, range(9), channel) for channel in MAGMA.T], -1).reshape(9, 13, 3)
    np.testing.assert_allclose(pixels(page.locator(".step-softmax canvas")), expected, atol=2)
    assert page.locator(".marks [aria-pressed=true]").inner_text().split() == [
        f"{'1' if temperature == 1 else '√8'}",
        mark,
    ]
    assert page.evaluate("document.querySelector('.attend').danet.state.temperature") == pytest.approx(temperature)


def test_the_slider_reaches_both_marks_by_keys(opened: Open, page_text: str):
    page = opened(page_text)
    page.locator(".heat").focus()
    seen = []
    for key in ["ArrowRight"] * 25 + ["Home", "End"]:
        page.keyboard.press(key)
        settled(page)
        seen.append(text(page, ".temperature"))
    assert seen[0] == "τ = 1.05"
    assert "τ = 2.83" in seen, "√8"
    assert [seen[-2], float(seen[-1][4:])] == ["τ = 0.25", pytest.approx(8**0.5 * np.exp(1.4), rel=0.05)]
    page.keyboard.press("l")
    assert page.evaluate("document.querySelector('.attend').danet.state.temperature") == 1, "closing puts DANet's back"


def test_the_gate_in_five_stops(opened: Open, encoding: Encoding, page_text: str):
    view = encoding.view()
    position = view.position
    assert position is not None
    page = opened(page_text)
    stops = page.locator(".stops label")
    assert stops.all_inner_texts() == ["0", "½ α", "α", "2 α", "4 α"]
    assert page.locator(".stops input").nth(2).is_checked()
    assert "learned gate" in text(page, ".gate-changed")
    trained = position.gate_labels[2]
    assert (position.gate_labels != trained).any((1, 2)).tolist() == [True, True, False, True, True]
    for stop, factor in enumerate(position.gates):
        stops.nth(stop).click()
        settled(page)
        labels = position.gate_labels[stop]
        gate, share = factor * 0.5, factor * position.share
        told = f"{gate:.2f}" if gate else "0.000", f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.1f}"
        assert text(page, ".gate-share") == f"α = {told[0]}: ‖αE‖/‖A‖ = {told[1]}{THIN}%."
        changed = labels != trained
        if stop != 2:
            assert text(page, ".gate-changed").startswith(f"{percent(changed.mean())}{THIN}% of the pixels")
        drawn = pixels(page.locator(".step-gate canvas"))
        np.testing.assert_array_equal(drawn[changed], SPACE.colour_image(labels)[changed])
        assert text(page, ".gate-label") == f"The ringed pixel: {SPACE.names[labels[28, 44]]}."


@pytest.mark.parametrize("rule", ["official", "paper"])
def test_channels_by_both_rules_and_which_this_model_was_trained_with(opened: Open, rule):
    encoding = encoded("danet", channel_rule=rule)
    channel = encoding.view().channel
    assert channel is not None
    page = opened(attention_page([encoding.view("n")], "t"))
    trained = {"official": "authors’ form", "paper": "paper’s form"}[rule]
    assert f"This model was trained with the {trained}." in text(page, ".step-channels .note")
    features = encoding.traces["channel"].features[0].flatten(1)
    assert page.locator(".thumbs label").all_inner_texts() == [str(index) for index in channel.indices]
    for number in (0, len(channel.indices) - 1):
        page.locator(".thumbs label").nth(number).click()
        index = channel.indices[number]
        for form in ("official", "paper"):
            weights = channel_attention_map(features[index : index + 1], features, form)[0].numpy()
            if form == rule:
                np.testing.assert_allclose(weights, encoding.channels(index).weights, rtol=1e-3)
            order = [i for k, i in enumerate(np.argsort(-weights)) if k < 5 and (not k or weights[i] >= 5e-4)]
            lines = page.locator(f".rule-{form} li").all_inner_texts()
            names = [f"itself, {i}" if i == index else f"channel {i}" for i in order]
            assert [line.split("\n")[0] for line in lines] == names
            shares = [float(line.split("\n")[-1].removesuffix(f"{THIN}%")) / 100 for line in lines]
            np.testing.assert_allclose(shares, weights[order], rtol=0.06)
        energy = features[index] @ features.T
        assert text(page, ".lowest").split(": ")[0] == f"lowest energy, {float(f'{energy.min():.3g}'):,g}"
        shown = encoding.channels(index)
        low, extent = shown.before.min(), np.ptp(shown.before)
        for state, values in (("before", shown.before), ("after", shown.after)):
            scaled = 255 * np.clip((values - low) / extent, 0, 1)
            np.testing.assert_allclose(pixels(page.locator(f".channel-{state} canvas"))[..., 0], scaled, atol=1)


def test_it_begins_with_the_place_that_is_looked_at_most_other_than_the_ringed_one(opened: Open):
    view = random_view()
    key = positioned(view).query.copy()  # so that places look at themselves
    energy = positioned(view).query @ key.T
    place = int(np.flatnonzero(energy.argmax(1) == np.arange(108))[-1])
    x, y = (place % 12 * 2 + 1) * 127 // 24, (place // 12 * 2 + 1) * 75 // 18
    page = opened(attention_page([random_view(key=key, name="n")], "t"), (x, y))
    others = np.delete(energy[place] - energy[place].mean(), place)
    assert text(page, ".energy-above") == f"+{THIN}{others.max():.2f}"


def test_keys_of_dranet_are_windows(opened: Open):
    encoding = encoded("dranet")
    trace = encoding.traces["position"]
    assert trace.pool is not None
    page = opened(attention_page([encoding.view("n")], "t"))
    grid = trace.grid
    place = encoding.place((44, 28), grid)
    energy = energies(encoding, place)
    sizes = (trace.pool > 0).sum(1).numpy()
    assert "Centre j" in text(page, ".step-energy .words p")
    for other in (0, place, grid[0] * grid[1] - 1):
        point_at(page, ".step-energy", other, grid)
        settled(page)
        around = np.flatnonzero(trace.pool[:, other].numpy())
        key = around[sizes[around].argmin()]
        assert text(page, ".energy-weight") == f"{percent(float(softmax(energy)[key]))}{THIN}%"
        spot, plate = (page.locator(f".step-energy {part}").bounding_box() for part in (".spot", ".plate"))
        assert spot is not None
        assert plate is not None
        rows, columns = np.nonzero(trace.pool[key].view(grid).numpy())
        wide = (spot["width"] - 6) / plate["width"] * grid[1]
        tall = (spot["height"] - 6) / plate["height"] * grid[0]
        assert (tall, wide) == pytest.approx((np.ptp(rows) + 1, np.ptp(columns) + 1), abs=0.2)
    assert page.locator(".rule-official li").first.inner_text().startswith("compact channel")


@pytest.mark.parametrize(("head", "steps"), [("pam", 6), ("cam", 1), ("fcn", 0)])
def test_a_model_has_the_steps_that_it_has(opened: Open, head, steps):
    page = opened(attention_page([encoded(head).view("n")], "t"))
    assert page.locator(".learn > ol > li").count() == steps
    assert ("no attention" in text(page, ".notation")) == (steps == 0)


def test_a_switch_writes_query_key_and_value(opened: Open, page_text: str):
    page = opened(page_text)
    said = page.locator(".step-energy .equation").get_attribute
    assert said("aria-label") == "e_ij = B_i · C′_j = ∑_k B_ik C′_jk"
    value = text(page, ".energy-above")
    page.locator(".names").check()
    settled(page)
    assert said("aria-label") == "e_ij = Q_i · K_j = ∑_k Q_ik K_jk"
    assert text(page, ".notation").startswith("Q, K and V are query, key and value")
    assert "its query Q" in text(page, ".step-query .words p")
    assert text(page, ".energy-above") == value
    assert page.locator(".step-energy .of-key").first.inner_text().startswith("K")


def test_it_is_the_same_on_a_served_page(chromium: Browser, tmp_path: Path):
    told = []
    with serving(tmp_path) as server:
        tensors = load(server.get("/v1/examples/scene").body)
        page = chromium.new_page(viewport={"width": 1280, "height": 900}, locale="en")
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/#image=scene&at=170,250&learn=1")
        page.locator(".step-channels").wait_for()
        point_at(page, ".step-energy", 14 * 32 + 28, (24, 32))
        query, key = (tensors[name].astype(np.float64) + tensors[f"{name}_rest"] for name in ("query", "key"))
        energy = key @ query[12 * 32 + 8]
        assert text(page, ".energy-above") == f"+{THIN}{energy[14 * 32 + 28]:.2f}"
        page.locator(".marks button", has_text="transformer").click()
        settled(page)
        even = softmax(energy / 4) @ tensors["value"].astype(np.float64)
        np.testing.assert_allclose(rgb(page, ".swatch-gathered"), colours(even), atol=1)
        page.close()
    assert told == []


def test_arrow_keys_move_the_second_place_and_not_the_ring(opened: Open, encoding: Encoding, page_text: str):
    page = opened(page_text)
    point_at(page, ".step-energy", 4 * 13 + 6)
    page.mouse.move(5, 5)
    page.locator(".step-energy .plate").focus()
    place = 4 * 13 + 6
    weights = softmax(energies(encoding, 3 * 13 + 5))
    for key, step, times in (("ArrowLeft", -1, 1), ("ArrowDown", 13, 1), ("ArrowRight", 1, 1), ("ArrowUp", -13, 4)):
        for _ in range(times):
            page.keyboard.press(key)
            place += step
            assert text(page, ".energy-weight") == f"{percent(weights[place])}{THIN}%"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert text(page, ".energy-weight") == f"{percent(weights[place % 13])}{THIN}%", "the edge ends it"
    assert page.evaluate("document.querySelector('.attend').danet.state.place") == 3 * 13 + 5


def test_the_lesson_follows_the_ring(opened: Open, encoding: Encoding, page_text: str):
    page = opened(page_text)
    page.locator(".stage canvas").press("ArrowRight")
    settled(page)
    query = encoding.position[0][0, 3 * 13 + 6].numpy()
    np.testing.assert_allclose(bars(page.locator(".step-query .chart")), query / np.abs(query).max(), atol=1e-3)
    ring, plate = (page.locator(f".step-energy {part}").bounding_box() for part in (".ring", ".plate"))
    assert ring is not None
    assert plate is not None
    assert (ring["x"] + ring["width"] / 2 - plate["x"]) / plate["width"] == pytest.approx(6.5 / 13, abs=0.01)


def test_it_is_in_chinese_for_those_who_read_it(opened: Open, page_text: str):
    page = opened(page_text, locale="zh-CN")
    assert page.locator(".learn h3").first.inner_text() == "特征"
    shown = page.locator(".learn").inner_text()
    for english in ("place", "channel", "energy", "weight", "gate", "learned"):
        assert english not in shown
    assert "{" not in shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_inks_are_legible_and_no_width_scrolls_sideways(opened: Open, page_text: str, scheme):
    page = opened(page_text, color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for name in ("features", "query", "key", "value", "weight", "gathered"):
        ink = page.locator(f".learn .equation .of-{name}").first.evaluate("e => getComputedStyle(e).color")
        assert contrast(ink, ground) >= 4.5, name
    for name in (".words p", ".caption", ".stops label", ".marks button", ".notation"):
        ink = page.locator(f".learn {name}").last.evaluate("e => getComputedStyle(e).color")
        assert contrast(ink, ground) >= 4.5, name
    for width in (320, 640, 900, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it, of two CSS colours."""

    def luminance(colour: str) -> float:
        share = np.array(re.findall(r"\d+", colour)[:3], int) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)
