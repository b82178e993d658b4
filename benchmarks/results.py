"""Write docs/results.md, and tables of other pages, from the tables in results/; a test fails when they part.

python benchmarks/results.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import results_costs as costs
import results_scores as scores
from table import Row, read_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
Section = Callable[[Sequence[Row]], str]
HEAD = """# Results, in words

Written by `python benchmarks/results.py` from the tables in [results/](../results), each of which names command, commit, hardware and date; what is not measured here is not here.
"""
SECTIONS: dict[str, Section] = {
    "runs": scores.camvid,
    "camvid": scores.protocols,
    "peers": scores.peers,
    "peers-cost": scores.peers_cost,
    "at-work": scores.at_work,
    "at-work-rows": scores.at_work_rows,
    "finetune": scores.transfer,
    "inference": costs.inference,
    "sizes": scores.sizes,
    "raster": costs.rasters,
}

INSERTED: dict[tuple[str, str], Section] = {
    ("performance.md", "runtimes"): costs.runtimes,
    ("performance.md", "triton"): costs.triton,
}
"""Parts of other pages, between the comments `<!-- NAME -->` and `<!-- end of NAME -->`."""


def page() -> str:
    """The page as the tables have it now."""
    return "\n".join([HEAD, *(_told(name, section) for name, section in SECTIONS.items())])


def inserted() -> dict[Path, str]:
    """The other pages as the tables have them now."""
    pages: dict[Path, str] = {}
    for (page, name), section in INSERTED.items():
        path = PAGE.with_name(page)
        text = pages.get(path) or path.read_text(encoding="utf-8")
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        pages[path] = f"{before}{start}{_told(name, section)}{end}{after}"
    return pages


def _told(name: str, section: Section) -> str:
    return section(read_table(ROOT / "results" / f"{name}.csv"))


if __name__ == "__main__":
    for path, text in {PAGE: page(), **inserted()}.items():
        path.write_text(text, encoding="utf-8")
