"""The chapters of docs/learn: their code runs from top to bottom and prints what they say."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.docs.pages import LEARN, alike, blocks, code, run

CHAPTERS = sorted(LEARN.glob("[1-9]-*.md"))
LONG = ("1-", "4-", "5-", "8-")
"""They train, or score many streets; the others take a few seconds each."""
PICTURE = re.compile(r"!\[[^\]]+\]\((?!http)([^)]+)\)")


def marked(path):
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.name.startswith(LONG) else [])


@pytest.mark.parametrize("path", [marked(path) for path in CHAPTERS])
def test_what_a_chapter_says_is_what_its_code_prints(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = path.read_text(encoding="utf-8")
    told = 0
    for block, following, printed in run(page, path.name):
        assert following is not None or not printed, f"{block.text}\nprints, and the chapter does not say what"
        if following is not None:
            assert alike(following.text, printed), (
                f"{block.text}\nprints\n{printed}\nand the chapter says\n{following.text}"
            )
            told += 1
    assert told == sum(block.language == "text" for block in blocks(page))
    for name in PICTURE.findall(page):  # each is drawn by the chapter itself
        with Image.open(tmp_path / name) as drawn, Image.open(path.parent / name) as kept:
            assert drawn.size == kept.size


def test_there_are_eight_and_each_ends_with_answered_exercises_and_the_way_on():
    assert [path.name[0] for path in CHAPTERS] == list("12345678")
    for path, following in zip(CHAPTERS, [*CHAPTERS[1:], None], strict=True):
        page = path.read_text(encoding="utf-8")
        questions, answers = page.split("\n## Exercises\n")[1].split("<summary>Answers</summary>")
        count = len(re.findall(r"^\d\. ", questions, re.MULTILINE))
        assert count >= 2
        assert len(re.findall(r"^\d\. ", answers, re.MULTILINE)) == count
        assert code(answers)  # and at least one of them is checked
        assert following is None or f"]({following.name})" in page


def test_each_becomes_a_notebook_of_the_same_code(tmp_path):
    import nbformat

    for path in CHAPTERS:
        out = tmp_path / f"{path.stem}.ipynb"
        command = [sys.executable, "-m", "jupytext", "--quiet", "--to", "notebook", "-o", str(out), str(path)]
        subprocess.run(command, check=True)
        notebook = nbformat.read(out, as_version=4)
        cells = [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]
        assert cells == [text.strip() for text in code(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("said", "printed", "same"),
    [
        ("mIoU 76.2 %", "mIoU 76.3 %", True),
        ("mIoU 76.2 %", "mIoU 66.2 %", False),
        ("off by 2e-06", "off by 8e-06", True),
        ("off by 0e+00", "off by 3e-07", True),
        ("off by 2e-06", "off by 1e-02", False),
        ("3 heads", "4 heads", False),
        ("1,024 places", "1,024 places", True),
        ("1,024 places", "2,048 places", False),
        ("True", "False", False),
        ("road: 0.69", "pavement: 0.69", False),
    ],
)
def test_outputs_are_compared_word_by_word_and_number_by_number(said, printed, same):
    assert alike(said, printed) is same


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_chinese_chapters_have_the_same_code_and_parts(path):
    english, chinese = (page.read_text(encoding="utf-8") for page in (path, LEARN / "zh" / path.name))
    assert [block[:2] for block in blocks(chinese)] == [block[:2] for block in blocks(english)]
    for part in ("\n## ", "\n| ", "\n- ", "<details>", "]("):
        assert chinese.count(part) == english.count(part), part
