"""An ablation's runs compared: a table in the form of the paper's (table 1), and what the differences do and don't say.

Rows are those of `danet.training.ablation.run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any, NamedTuple

from danet.config import HEADS

Row = Mapping[str, Any]

BRANCHES = {"PAM": ("pam", "danet"), "CAM": ("cam", "danet")}


class Column(NamedTuple):
    """A measure: its heading, its key in the rows, what it is multiplied by, and its digits after the point."""

    title: str
    key: str
    factor: float = 1
    digits: int = 1


SCORES = (
    Column("mIoU %", "miou", 100),
    Column("context %", "context", 100),
    Column("follows %", "follows", 100),
    Column("control %", "control", 100),
)
GATES = (Column("α", "alpha", 1, 2), Column("β", "beta", 1, 2))
SHARES = (Column("‖αE‖/‖A‖ %", "position_share", 100), Column("‖βE‖/‖A‖ %", "channel_share", 100))
COSTS = (
    Column("10⁶ parameters", "parameters", 1e-6, 2),
    Column("GFLOP", "gflops"),
    Column("s/step", "step_seconds", 1, 2),
    Column("minutes", "minutes"),
    Column("peak GB", "peak_gigabytes", 1, 2),
)
COMPARED = {"mIoU": SCORES[0], "context score": SCORES[1], "following of twins": SCORES[2]}
# Student's t, 97.5 %, by degrees of freedom (seeds − 1); for more seeds the last, which is on the safe side
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Comparison(NamedTuple):
    """Headings, a line of cells a variant, and sentences about the differences."""

    headings: list[str]
    lines: list[list[str]]
    findings: list[str]

    def markdown(self) -> str:
        """The table and the findings as Markdown."""
        rule = ["---"] + ["---:"] * (len(self.headings) - 1)
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (self.headings, rule, *self.lines))
        return "\n".join([table, "", *(f"- {finding}" for finding in self.findings), ""])


def compare(rows: Sequence[Row]) -> Comparison:
    """The runs of one ablation: scores and shares as mean ± standard deviation over seeds, gates seed by seed."""
    variants = by_variant(rows)
    columns = [
        column for column in (*SCORES, *GATES, *SHARES, *COSTS) if any(row[column.key] is not None for row in rows)
    ]
    lines = []
    for name, runs in variants.items():
        ticks = ["✓" if runs[0]["head"] in heads else "" for heads in BRANCHES.values()]
        lines.append([name, *ticks, *(cell(runs, column) for column in columns)])
    return Comparison(["network", *BRANCHES, *(column.title for column in columns)], lines, findings(variants))


def by_variant(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Each variant's runs, seed by seed: heads in the paper's order, each followed by its variations."""
    order = sorted(rows, key=lambda row: (HEADS.index(row["head"]), row["variant"], row["seed"]))
    found: dict[str, list[Row]] = {}
    for row in order:
        found.setdefault(row["variant"], []).append(row)
    return found


def cell(runs: Sequence[Row], column: Column) -> str:
    """One measure of one variant; a dash where it has none."""
    values = [column.factor * run[column.key] for run in runs if run[column.key] is not None]
    if not values:
        return "–"
    if column in GATES:  # seeds may open a gate either way, of which a mean would tell nothing
        return ", ".join(f"{value:+.{column.digits}f}".replace("-", "−") for value in values)
    spread = stdev(values) if len(values) > 1 and column not in COSTS else None
    middle = f"{mean(values):.{column.digits}f}"
    return middle if spread is None else f"{middle} ± {spread:.{column.digits}f}"


def findings(variants: Mapping[str, Sequence[Row]]) -> list[str]:
    """How each head differs from the first, each variation from its plain head, and whether that is more than noise.

    Differences are taken seed by seed; they are more than noise where the 95 % interval of their mean (Student's t)
    leaves out 0. One seed says nothing about noise.
    """
    first = next(iter(variants))
    sentences = []
    for measure, column in COMPARED.items():
        for name, runs in variants.items():
            head = name.partition(",")[0]
            reference = head if head != name and head in variants else first
            before, after = by_seed(variants[reference], column.key), by_seed(runs, column.key)
            if name != reference and (pairs := [(after[seed], before[seed]) for seed in after if seed in before]):
                sentences.append(f"{measure}: {name} against {reference}: {difference(pairs)}")
    majority = next((run["control_majority"] for run in variants[first] if run["control_majority"] is not None), None)
    if majority is not None:
        controls = {name: by_seed(runs, "control").values() for name, runs in variants.items()}
        reached = ", ".join(f"{name} {100 * mean(values):.1f}" for name, values in controls.items() if values)
        sentences.append(
            f"control, ground without things, where nobody can know (majority {100 * majority:.1f} %): {reached} %"
        )
    return sentences


def by_seed(runs: Sequence[Row], key: str) -> dict[int, float]:
    """A measure by seed, where a run has it."""
    return {run["seed"]: run[key] for run in runs if run[key] is not None}


def difference(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean difference of shares, in points, with its 95 % interval and a verdict."""
    differences = [100 * (one - other) for one, other in pairs]
    middle, count = mean(differences), len(differences)
    if count == 1:
        return f"{signed(middle)} points in one seed, which says nothing about noise"
    reach = T[min(count - 1, max(T))] * stdev(differences) / sqrt(count)
    interval = f"{signed(middle - reach)} to {signed(middle + reach)}"
    verdict = "more than noise" if abs(middle) > reach else "within noise"
    return f"{signed(middle)} points ({count} seeds, 95 %: {interval}): {verdict}"


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
