"""The report: one file that asks for nothing, shows what it was given, and escapes what comes from outside."""

import math
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from danet.data.dataset import Dataset
from danet.data.labels import LabelSpace
from danet.data.sources import open_source
from danet.errors import InputError
from danet.inference.segmenter import Segmenter
from danet.training.summary import attention_views
from danet.viz.attention_page import figure
from danet.viz.curves import BOTTOM, HEIGHT, LINE, chart, number, round_step, spread, thin
from danet.viz.report import ReportData, RunScores, Triple, WorstImage, curve, render, write_report
from danet.weights.bundle import Bundle
from tests.viz.views import random_view

SPACE = LabelSpace("three", ("sky", "road & <b>kerb</b>", "tree"), ((10, 20, 250), (200, 60, 200), (0, 200, 0)))
NASTY = "a<script>alert(1)</script>\"'&.png"
VOID = {"meta", "img", "br", "col", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Every element with its attributes, and the text; fails on tags that do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def records(gates: bool) -> list[dict]:
    steps = [
        {"event": "step", "step": step, "loss": 2.0, "losses": {"fused": 1 / step}, "lr": 1e-3 / step}
        | ({"gates": {"position": 0.01 * step, "channel": -0.002 * step}} if gates else {})
        for step in range(1, 41)
    ]
    return [*steps, {"event": "validated", "step": 40, "miou": 0.512, "context": None}, {"event": "saved", "step": 40}]


def everything() -> ReportData:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 800, 3), np.uint8)
    labels = np.zeros((60, 800), np.uint8)
    labels[:, 400:], labels[:20, 600:] = 1, 255
    return ReportData(
        title=f"Title {NASTY}",
        labels=SPACE,
        summary=f"Summary {NASTY}",
        command=f"danet train {NASTY}",
        facts={"Commit": "3f2c1ab", f"Fact {NASTY}": f"value {NASTY}"},
        config=f"name: {NASTY}",
        history={"DANet": records(True), f"FCN {NASTY}": records(False)},
        scores={
            "DANet": RunScores(0.545, 0.873, {"sky": 0.912, "road & <b>kerb</b>": 0.5, "tree": None}, 0.812, 0.534),
            f"FCN {NASTY}": RunScores(0.498, 0.851, {"sky": 0.848, "road & <b>kerb</b>": 0.4, "tree": None}, 0.541),
        },
        triples=[Triple(NASTY, image, labels, np.zeros_like(labels)), Triple("second", image, labels, labels)],
        worst=[WorstImage(NASTY, 0.123, Image.fromarray(image))],
        attention=[random_view(name=NASTY), random_view(name="second")],
    )


@pytest.fixture(scope="module")
def text() -> str:
    return render(everything())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_loaded_and_nothing_but_the_attention_page_runs(text: str, page: Page):
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert [script["type"] for script in page.all("script")] == ["application/danet"] * 2 + ["module"]
    without = Page(render(replace(everything(), attention=[])))
    assert not without.all("script")
    assert "script-src" not in without.all("meta")[-1]["content"]
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_what_comes_from_outside_is_escaped_everywhere(text: str, page: Page):
    assert "<script>" not in text
    assert page.text.count(NASTY) >= 12
    assert "road &amp; &lt;b&gt;kerb" in text
    assert "<b>kerb" not in text
    assert any(NASTY in (image["alt"] or "") for image in page.all("img"))
    assert [script["data-name"] for script in page.all("script")[:2]] == [NASTY, "second"]


def test_it_holds_every_picture_class_figure_and_fact(page: Page):
    assert len(page.all("img")) == 2 * 3 + 1
    for name in SPACE.names:
        assert name in page.text
    for percent in ("54.5", "49.8", "87.3", "81.2", "53.4", "91.2", "84.8", "12.3"):
        assert f"{percent}\u202f%" in "".join(page.words)
    for words in ("Commit 3f2c1ab", "majority share", "far from everything", "in neither truth nor prediction"):
        assert words in page.text
    assert [svg["aria-label"] for svg in page.all("svg")] == [
        f"Validation mIoU: DANet 51.2 %, FCN {NASTY} 51.2 %",
        f"Training loss: DANet 0.025, FCN {NASTY} 0.025",
        "Gates: position α 0.4, channel β −0.08",
        f"Learning rate: DANet, FCN {NASTY} 2.5e−5",
    ]


def test_the_pictures_are_what_was_given(page: Page):
    sources = [image["src"] or "" for image in page.all("img")]
    image, truth, prediction = (Image.open(BytesIO(b64decode(source.split(",")[1]))) for source in sources[:3])
    assert (image.format, truth.format, truth.mode) == ("JPEG", "PNG", "P")
    assert image.size == truth.size == prediction.size == (480, 36)
    pixels = np.asarray(truth.convert("RGBA"))
    assert tuple(pixels[30, 100]) == (*SPACE.colours[0], 255)
    assert tuple(pixels[30, 400]) == (*SPACE.colours[1], 255)
    assert pixels[5, 400, 3] == 0, "unlabelled pixels are transparent"
    assert f"{NASTY} · pixel accuracy 12.3 %" in page.text
    assert "pixel accuracy 54.5 %" in page.text  # 24,000 of 44,000 labelled pixels


def test_missing_parts_are_left_out():
    bare = Page(render(ReportData("Nothing yet", SPACE)))
    assert bare.text.split("Nothing yet")[2:] == [""]
    assert not {"section", "table", "svg", "img", "dl"} & {tag for tag, _ in bare.tags}
    single = Page(
        render(
            ReportData("FCN", SPACE, history={"FCN": records(False)}, scores={"FCN": RunScores(0.5, 0.8, {"sky": 0.5})})
        )
    )
    assert "Gates" not in single.text
    assert "Context" not in single.text
    assert "Attention" not in single.text
    assert single.all("svg")[0]["aria-label"] == "Validation mIoU: 51.2 %"
    assert "tree" not in single.text


def test_a_report_has_maps_while_they_fit_and_one_in_any_case(tiny: Bundle, own_data: Path):
    dataset = Dataset(*open_source("folder", "train", root=str(own_data)))
    segmenter = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")

    def names(room: int) -> list[str]:
        return [view.name for view in attention_views(dataset, [0, 3, 5], segmenter, room)]

    sizes = [len(figure([view])) for view in attention_views(dataset, [0, 3, 5], segmenter, 1_000_000)]
    assert names(sum(sizes)) == ["0.png", "3.png", "5.png"]
    assert names(sum(sizes) - 1) == names(sizes[0] + sizes[1]) == ["0.png", "3.png"]
    assert names(sizes[0] + sizes[1] - 1) == names(0) == ["0.png"]


def test_the_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "report.html"
    assert write_report(path, ReportData("First", SPACE)) == path
    first = path.read_text("utf-8")
    broken = Triple("x", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="shape"):
        write_report(path, ReportData("Second", SPACE, triples=[broken]))
    assert path.read_text("utf-8") == first
    write_report(path, ReportData("Third", SPACE))
    assert "Third" in path.read_text("utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_curve_takes_finite_values_of_its_event_and_the_later_of_a_repeated_step():
    lines = [
        {"event": "step", "step": 2, "losses": {"fused": 3.0}},
        {"event": "step", "step": 1, "losses": {"fused": 4.0}},
        {"event": "step", "step": 3, "losses": {"fused": math.nan}},
        {"event": "step", "step": 4},
        {"event": "validated", "step": 5, "losses": {"fused": 9.0}},
        {"event": "step", "step": 2, "losses": {"fused": 2.0}},
    ]
    assert curve(lines, "step", "losses", "fused") == [(1, 4.0), (2, 2.0)]
    assert curve(lines, "step", "losses", "fused", factor=100) == [(1, 400.0), (2, 200.0)]
    assert curve(lines, "step", "gates", "position") == []


def test_a_chart_draws_each_point_in_its_place():
    drawing = chart({"a": [(0, 0.0), (50, 1.0), (100, 4.0)], "empty": []}, "described", " s")
    (points,) = re.findall(r'points="([^"]+)"', drawing)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points.split())
    assert (x1 - x0) == pytest.approx((x2 - x0) / 2, abs=0.1)
    assert (y0 - y1) == pytest.approx((y0 - y2) / 4, abs=0.1)
    assert y0 > y1
    assert ">4 s<" in drawing
    assert ">a 4 s<" in drawing
    assert ">100<" in drawing
    assert "empty" not in drawing
    assert chart({"empty": []}, "described") == ""
    assert "nan" not in chart({"constant": [(0, 0.0)]}, "described")


def test_a_chart_keeps_its_room_beside_long_names_and_reaches_down_to_negative_values():
    drawing = chart({"a name " * 20: [(0, -1.0), (10, -3.0)]}, "described")
    (points,) = re.findall(r'points="([^"]+)"', drawing)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    assert x1 - x0 > 150
    assert y1 > y0
    assert ">0<" in drawing
    assert ">−3<" in drawing
    assert ">1<" not in drawing


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=1000))
def test_thin_keeps_the_mean_of_equal_groups_and_the_last_step(values: list[float]):
    points = [(float(step), value) for step, value in enumerate(values)]
    thinned = thin(points, 150)
    assert len(thinned) <= 150
    assert thinned[-1][0] == points[-1][0]
    assert min(values) - 1e-6 <= min(y for _, y in thinned)
    assert max(y for _, y in thinned) <= max(values) + 1e-6
    if len(values) <= 150:
        assert thinned == points


@given(st.floats(1e-9, 1e9))
def test_round_steps_are_round_and_near(rough: float):
    step = round_step(rough)
    assert 1 - 1e-8 <= step / rough <= 2.5 + 1e-8
    assert f"{step:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


@given(st.lists(st.floats(0, HEIGHT - BOTTOM), min_size=1, max_size=8))
def test_labels_are_a_line_apart_and_keep_their_order(heights: list[float]):
    placed = spread(heights)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    gaps = [placed[below] - placed[above] for above, below in pairwise(order)]
    assert all(gap >= LINE - 1e-9 for gap in gaps)
    assert max(placed) <= HEIGHT - BOTTOM


def test_numbers_read_well():
    assert [number(value) for value in (0, 0.5, -0.25, 53.24, 0.00075, 1e-5, -0.0)] == [
        "0",
        "0.5",
        "−0.25",
        "53.2",
        "7.5e−4",
        "1e−5",
        "0",
    ]


def test_a_report_that_cannot_be_written_says_so_in_a_line(tmp_path):
    with pytest.raises(InputError, match=r"report\.html cannot be written \(No such file or directory\); make room"):
        write_report(tmp_path / "none" / "report.html", ReportData("t", SPACE))
