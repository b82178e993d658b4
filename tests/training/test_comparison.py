"""An ablation compared: every cell and every sentence by hand."""

from math import sqrt
from statistics import mean

import numpy as np
import pytest

from danet.config import ABLATION
from danet.training.comparison import compare, difference

COSTS = {"parameters": 1_234_567, "gflops": 2.34, "step_seconds": 0.125, "minutes": 4.04, "peak_gigabytes": 1.5}
NONE = dict.fromkeys(("context", "follows", "control", "control_majority", "alpha", "beta"))


def row(variant: str, seed: int, miou: float, **more) -> dict:
    shares = {"position_share": None, "channel_share": None}
    head = variant.partition(",")[0]
    return {"variant": variant, "head": head, "seed": seed, "miou": miou, **NONE, **shares, **COSTS, **more}


def column(comparison, heading: str) -> dict[str, str]:
    place = comparison.headings.index(heading)
    return {line[0]: line[place] for line in comparison.lines}


def test_cells_are_means_and_deviations_over_seeds():
    values = {0: 0.4012, 1: 0.4391, 2: 0.3877}
    rows = [
        row("danet", seed, value, alpha=0.1 * seed - 0.1, position_share=value / 10) for seed, value in values.items()
    ]
    comparison = compare(rows)
    percent = 100 * np.array(list(values.values()))
    assert column(comparison, "mIoU %") == {"danet": f"{percent.mean():.1f} ± {percent.std(ddof=1):.1f}"}
    assert column(comparison, "‖αE‖/‖A‖ %") == {"danet": f"{percent.mean() / 10:.1f} ± {percent.std(ddof=1) / 10:.1f}"}
    assert column(comparison, "α") == {"danet": "−0.10, +0.00, +0.10"}  # seed by seed, with a true minus
    assert column(comparison, "10⁶ parameters") == {"danet": "1.23"}  # costs are no samples
    assert column(comparison, "GFLOP") == {"danet": "2.3"}
    assert column(comparison, "s/step") == {"danet": "0.12"}
    assert column(comparison, "minutes") == {"danet": "4.0"}
    assert column(comparison, "peak GB") == {"danet": "1.50"}


def test_heads_come_in_the_papers_order_each_before_its_variations():
    variants = ["danet,lr=1", "cam", "danet", "fcn,lr=1", "pam", "fcn"]
    comparison = compare([row(variant, seed, 0.5) for seed in (1, 0) for variant in variants])
    assert [line[0] for line in comparison.lines] == ["fcn", "fcn,lr=1", "pam", "cam", "danet", "danet,lr=1"]
    ticks = {"fcn": ("", ""), "pam": ("✓", ""), "cam": ("", "✓"), "danet": ("✓", "✓")}
    assert comparison.headings[:3] == ["network", "PAM", "CAM"]
    assert [tuple(line[1:3]) for line in comparison.lines] == [
        ticks[line[0].partition(",")[0]] for line in comparison.lines
    ]
    assert set(ticks) == set(ABLATION)


def test_what_is_missing_is_a_dash_and_what_nobody_has_no_column():
    rows = [row("fcn", 0, 0.4), row("pam", 0, 0.5, alpha=-0.25), row("pam", 1, 0.6, alpha=None, step_seconds=None)]
    comparison = compare(rows)
    assert column(comparison, "α") == {"fcn": "–", "pam": "−0.25"}
    assert column(comparison, "mIoU %") == {"fcn": "40.0", "pam": "55.0 ± 7.1"}
    assert {"β", "context %", "follows %", "control %", "‖αE‖/‖A‖ %"}.isdisjoint(comparison.headings)
    assert all(len(line) == len(comparison.headings) for line in comparison.lines)


def test_differences_are_taken_seed_by_seed():
    """Student's t by hand: three pairs, two degrees of freedom, 4.303; a seed without its pair does not count."""
    base, other = {0: 0.40, 1: 0.44, 2: 0.37, 5: 0.9}, {2: 0.42, 0: 0.46, 1: 0.47, 7: 0.1}
    rows = [row("fcn", *pair) for pair in base.items()] + [row("danet", *pair) for pair in other.items()]
    points = [6, 3, 5]
    middle = mean(points)
    reach = 4.303 * sqrt(sum((point - middle) ** 2 for point in points) / 2) / sqrt(3)
    assert reach < middle
    interval = f"+{middle - reach:.1f} to +{middle + reach:.1f}"
    told = f"mIoU: danet against fcn: +{middle:.1f} points (3 seeds, 95 %: {interval}): more than noise"
    assert compare(rows).findings == [told]


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([3], "+3.0 points in one seed, which says nothing about noise"),
        ([-3], "−3.0 points in one seed, which says nothing about noise"),
        ([1, 3], "+2.0 points (2 seeds, 95 %: −10.7 to +14.7): within noise"),  # 12.706 · √2 / √2
        ([-5, -5.2], "−5.1 points (2 seeds, 95 %: −6.4 to −3.8): more than noise"),
        ([0, 0], "+0.0 points (2 seeds, 95 %: +0.0 to +0.0): within noise"),
        ([1.3, -0.7] * 5, "+0.3 points (10 seeds, 95 %: −0.5 to +1.1): within noise"),  # 2.262 · 1.054 / √10
        ([1.3, -0.7] * 20, "+0.3 points (40 seeds, 95 %: −0.1 to +0.7): within noise"),  # 2.262 · 1.013 / √40
        ([1.4, -0.6] * 20, "+0.4 points (40 seeds, 95 %: +0.0 to +0.8): more than noise"),
    ],
)
def test_a_difference_says_whether_it_is_more_than_noise(points, sentence):
    assert difference([(0.5 + point / 100, 0.5) for point in points]) == sentence


def test_every_measure_and_variant_is_compared_with_the_first():
    context = {"context": 0.6, "follows": 0.3, "control": 0.52, "control_majority": 0.55}
    better = {"context": 0.7, "follows": 0.5, "control": 0.5, "control_majority": 0.55}
    rows = [row("pam", 0, 0.5, **context), row("cam", 0, 0.4, **better), row("pam,lr=1", 0, 0.6)]
    found = compare(rows).findings
    assert [finding.partition(" points")[0] for finding in found[:-1]] == [
        "mIoU: pam,lr=1 against pam: +10.0",
        "mIoU: cam against pam: −10.0",
        "context score: cam against pam: +10.0",
        "following of twins: cam against pam: +20.0",
    ]
    assert found[-1] == (
        "control, ground without things, where nobody can know (majority 55.0 %): pam 52.0, cam 50.0 %"
    )
    assert not any("fcn" in finding for finding in found)
    with_fcn = compare([*rows, row("fcn", 0, 0.3)]).findings
    assert [finding.partition(":")[0] for finding in with_fcn] == ["mIoU"] * 3  # the rest fcn has not
    assert "mIoU: pam against fcn: +20.0 points in one seed, which says nothing about noise" in with_fcn


def test_seeds_without_a_pair_and_a_single_variant_give_no_sentence():
    assert compare([row("fcn", 0, 0.5), row("pam", 1, 0.6)]).findings == []
    assert compare([row("danet", seed, 0.5) for seed in range(3)]).findings == []


def test_markdown_is_a_table_and_a_list():
    rows = [row("fcn", 0, 0.4), row("danet", 0, 0.5, alpha=0.3, beta=0.2)]
    lines = compare(rows).markdown().split("\n")
    comparison = compare(rows)
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert table[0] == comparison.headings
    assert table[1] == ["---"] + ["---:"] * (len(comparison.headings) - 1)
    assert table[2:] == comparison.lines
    assert lines[4:] == ["", f"- {comparison.findings[0]}", ""]
