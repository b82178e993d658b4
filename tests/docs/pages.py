"""Pages whose code is run: what their blocks are, and what running them prints.

`python -m tests.docs.pages docs/learn/3-position-attention.md …` runs pages and writes what they print, and their
pictures, into them; the tests compare.
"""

import ast
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

LEARN = Path(__file__).parents[2] / "docs" / "learn"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


class Block(NamedTuple):
    """A fenced block: its language, its text, and where the text is in the page."""

    language: str
    text: str
    start: int
    end: int


def blocks(page: str) -> list[Block]:
    """All fenced blocks that have a language."""
    return [Block(found[1], found[2], found.start(2), found.end(2)) for found in FENCE.finditer(page)]


def code(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return [block.text for block in blocks(page) if block.language == "python"]


def run(page: str, name: str) -> Iterator[tuple[Block, Block | None, str]]:
    """Run a page's Python from top to bottom, as one module; each block with the output that follows, and its own.

    Lines of an error are the page's.
    """
    module = ModuleType(name)
    sys.modules[name] = module  # where what the page defines says that it is from
    found = blocks(page)
    for index, block in enumerate(found):
        if block.language != "python":
            continue
        following = found[index + 1] if index + 1 < len(found) and found[index + 1].language == "text" else None
        tree = ast.parse(block.text, name)
        ast.increment_lineno(tree, page.count("\n", 0, block.start))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, name, "exec"), vars(module))  # the page's own code
        yield block, following, printed.getvalue()


def alike(said: str, printed: str, share: float = 0.05) -> bool:
    """Whether two outputs are the same words and, but for `share` and the last digit, the same numbers.

    Small whole numbers are counts, which must be the same; numbers like 2e-06 are errors of rounding and must be small.
    """
    if NUMBER.sub("#", said).split() != NUMBER.sub("#", printed).split():
        return False
    return all(_near(*pair, share) for pair in zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True))


def _near(said: str, printed: str, share: float) -> bool:
    one, other = (float(text.replace(",", "").replace("−", "-")) for text in (said, printed))
    if "e" in said:  # an error of rounding, of which the order of magnitude is said
        return abs(other) <= max(10 * abs(one), 1e-5)
    if "." not in said and abs(one) < 10:
        return one == other
    return abs(one - other) <= 1.01 * 10.0 ** -len(said.partition(".")[2]) + share * abs(one)


def written(path: Path) -> str:
    """The page with what its code prints now; its pictures are written beside it."""
    page = path.read_text(encoding="utf-8")
    with contextlib.chdir(path.parent):
        results = list(run(page, str(path)))
    for _, following, printed in reversed(results):
        if following:
            page = page[: following.start] + printed + page[following.end :]
    return page


if __name__ == "__main__":
    for argument in map(Path, sys.argv[1:]):
        argument.write_text(written(argument), encoding="utf-8")
