"""Links between files of the repository lead somewhere, headings included."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("results/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub names them."""
    heads = re.findall(
        r"^#+ (.+)$", CODE.sub(lambda found: found[0] if "\n" not in found[0] else "", page.read_text("utf-8")), re.M
    )
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def test_every_picture_has_its_command():
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pictures = [path for kind in ("png", "svg") for path in (ROOT / "docs").rglob(f"*.{kind}")]
    assert len(pictures) > 10
    for path in pictures:
        rows = [line for line in told.splitlines() if str(path.relative_to(ROOT)) in line]
        assert len(rows) == 1, f"CONTRIBUTING.md does not say what makes {path.relative_to(ROOT)}"
        assert all((ROOT / script).exists() for script in re.findall(r"python (\S+\.py)", rows[0])), rows[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.relative_to(ROOT)}: {target}"
        assert not anchor or there.suffix != ".md" or anchor in anchors(there), f"{page.relative_to(ROOT)}: {target}"
