"""An ablation's plots: one colour a variant, the same bytes every time, nothing of the day they were drawn."""

import re
from xml.etree import ElementTree

import pytest

from danet.viz.ablation import COLOURS, draw_curves, draw_scores

SVG = "{http://www.w3.org/2000/svg}"
SCORES = {
    "mIoU": {"fcn": [0.40, 0.42], "danet": [0.50, 0.55], "danet,gate_start=0.1 & <b>": [0.6]},
    "context score": {"fcn": [0.5, 0.52], "danet": [0.7, 0.71]},
}
CURVES = {
    "validation mIoU, %": {"fcn": [[(10, 20), (20, 30)]], "danet": [[(10, 25), (20, 40)], [(10, 24), (20, 41)]]},
    "position gate α": {"danet": [[(1, 0.01), (2, -0.02)], [(1, 0.0), (2, 0.04)]]},
    "share ‖αE‖/‖A‖, %": {"danet": [[(20, 3)], [(20, 4)]]},
}


def draw_both(folder):
    draw_scores(folder / "scores.svg", SCORES, {"context score": 0.55})
    draw_curves(folder / "curves.svg", CURVES)
    return {name: (folder / f"{name}.svg").read_text(encoding="utf-8") for name in ("scores", "curves")}


def styles(element) -> str:
    return "".join(node.get("style") or "" for node in element.iter())


def panels(text: str) -> list:
    return [
        group for group in ElementTree.fromstring(text).iter(f"{SVG}g") if (group.get("id") or "").startswith("axes_")
    ]


def test_the_same_plots_are_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    one, two = (draw_both(tmp_path / folder) for folder in ("one", "two"))
    assert one == two
    for text in one.values():
        ElementTree.fromstring(text)
        assert "dc:date" not in text
        assert not re.search(r"\b20[23]\d-\d\d", text)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["curves.svg", "scores.svg"]


def test_scores_have_a_dot_a_seed_in_the_variants_colour(tmp_path):
    text = draw_both(tmp_path)["scores"]
    for word in ("mIoU, %", "context score, %", "majority", "fcn", "danet"):
        assert f"<!-- {word} -->" in text
    for panel, values in zip(panels(text), SCORES.values(), strict=True):
        dots = [node.get("style") for node in panel.iter(f"{SVG}use") if "fill-opacity" in (node.get("style") or "")]
        found = [re.search(r"fill: (#\w+)", style)[1] for style in dots]
        assert found == [COLOURS[place] for place, seeds in enumerate(values.values()) for _ in seeds]
    assert text.count("<!-- majority -->") == 1


def test_a_variant_has_one_colour_in_all_panels(tmp_path):
    text = draw_both(tmp_path)["curves"]
    drawn = panels(text)
    assert [title for title in CURVES if f"<!-- {title} -->" in text] == list(CURVES)
    assert len(drawn) == len(CURVES)  # the room of the fourth is empty
    order = ["fcn", "danet"]
    for panel, lines in zip(drawn, CURVES.values(), strict=True):
        for place, name in enumerate(order):
            strokes, curves = styles(panel).count(f"stroke: {COLOURS[place]}"), lines.get(name, [])
            dots = any(len(curve) == 1 for curve in curves)  # a dot takes more than one stroke
            assert strokes > len(curves) if dots else strokes == len(curves)
    (legend,) = [group for group in ElementTree.fromstring(text).iter(f"{SVG}g") if group.get("id") == "legend_1"]
    assert [f"stroke: {colour}" in styles(legend) for colour in COLOURS[:3]] == [True, True, False]
    assert [text.count(f"<!-- {name} -->") for name in order] == [1, 1]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_number_of_variants_and_of_panels(tmp_path, count):
    names = [f"variant {number}" for number in range(count)]
    draw_scores(tmp_path / "a.svg", {"mIoU": {name: [0.1 * place] for place, name in enumerate(names)}}, {})
    draw_curves(tmp_path / "b.svg", {f"panel {name}": {name: [[(0, 1), (5, 2)]]} for name in names})
    for path in (tmp_path / "a.svg", tmp_path / "b.svg"):
        text = path.read_text(encoding="utf-8")
        assert all(f"<!-- {name} -->" in text for name in names)
        assert all(f": {colour}" in text for colour in COLOURS[:count])
    assert len(panels(text)) == count
    assert len(set(COLOURS)) == len(COLOURS)
