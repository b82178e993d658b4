"""docs/results.md, and tables of other pages, say what results/ holds."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_pages_are_those_of_the_tables():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import results
    finally:
        sys.path.pop(0)
    assert results.PAGE.read_text(encoding="utf-8") == results.page()
    for path, text in results.inserted().items():
        assert path.read_text(encoding="utf-8") == text


def test_every_table_says_where_it_comes_from():
    told = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "results").glob("*.csv")):
        assert f"[{path.name}]({path.name})" in told, f"results/README.md does not tell of {path.name}"
        head = path.read_text(encoding="utf-8").partition("\n")[0].split(",")
        assert {"command", "date", "hardware"} <= set(head), path.name
