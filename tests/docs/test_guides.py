"""The guides: what they tell to type is understood, and the walk through own data runs as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from danet.arguments import parse
from danet.cli import COMMANDS
from danet.config import read_config
from danet.errors import InputError
from tests.docs.pages import LEARN, alike, blocks, run

DOCS = LEARN.parent
PAGES = [DOCS.parent / "README.md", DOCS.parent / "README.zh-CN.md", *sorted(DOCS.glob("*.md"))]
PAGES += sorted(DOCS.glob("guides/*.md"))
WITH_PYTHON = [DOCS / "guides" / "converting.md"]
OPEN = re.compile(r"…|\.\.\.|[{}]|\bRUN\b.*\bRUN\b")
"""What stands for something else, so that the line is none to type."""


def commands(page: str) -> list[str]:
    """Lines to type that begin with danet, from indented and fenced blocks, without their comments."""
    shell = [block.text for block in blocks(page) if block.language in ("sh", "console")]
    indented = re.findall(r"^(?: {4,}|\t)(danet .+)$", page, re.MULTILINE)
    lines = [line for text in shell for line in text.splitlines() if line.startswith("danet ")]
    return [line for line in [*lines, *indented] if not OPEN.search(line.partition(" #")[0])]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS.parent)))
def test_every_command_is_understood(path):
    for line in commands(path.read_text(encoding="utf-8")):
        typed = shlex.split(line.partition(" && ")[0], comments=True)[1:]
        options = parse(typed, COMMANDS)
        recipe = getattr(options, "recipe", None)
        if recipe and re.fullmatch(r"[a-z0-9-]+", recipe):
            assert read_config(recipe), line


def test_commands_are_found_and_wrong_ones_are_not_understood():
    page = "    danet predict a --model b   # c\n\n```sh\ndanet info\n```\n\n    danet train … --seed 3\n"
    assert commands(page) == ["danet info", "danet predict a --model b   # c"]
    with pytest.raises(InputError, match="no option --no-such-option"):
        parse(["predict", "photos", "--no-such-option"], COMMANDS)


@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: path.stem)
def test_its_python_prints_what_it_says(path):
    for _, following, printed in run(path.read_text(encoding="utf-8"), path.name):
        assert following is not None
        assert alike(following.text, printed), printed


@pytest.mark.slow
def test_own_data_from_a_folder_to_a_model_that_can_be_looked_into(tmp_path, monkeypatch):
    """Every block of the page, in order; the YAML is what one edits by hand."""
    page = (DOCS / "guides" / "own-data.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    ran = 0
    for block in blocks(page):
        if block.language == "python":
            (tmp_path / "draw.py").write_text(block.text, encoding="utf-8")
            subprocess.run([sys.executable, "draw.py"], check=True)
        elif block.language == "yaml":
            described = tmp_path / "street" / "labels.yaml"
            text = described.read_text(encoding="utf-8")
            changed = re.sub(r"^names:.*?(?=^\S)", block.text, text, count=1, flags=re.MULTILINE | re.DOTALL)
            assert changed != text
            described.write_text(changed, encoding="utf-8")
        else:
            for line in block.text.splitlines():
                done = subprocess.run(shlex.split(line), capture_output=True, text=True)
                assert done.returncode in (0, 3), f"{line}\n{done.stdout}\n{done.stderr}"
                ran += 1
    assert ran == 9
    made = ["street.html", "runs/street/report.html", "report/report.json", "predictions/index.csv"]
    for name in [*made, "street-attention.html", "exported/model.onnx"]:
        assert (tmp_path / name).stat().st_size > 0, name


def test_the_chinese_readme_has_the_same_parts_and_commands():
    english, chinese = ((DOCS.parent / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    for part in ("\n## ", "\n### ", "\n| ", "![", "```python", "```yaml"):
        assert chinese.count(part) == english.count(part), part

    def typed(page: str) -> list[str]:
        return [line.partition("#")[0].strip() for line in re.findall(r"^    (\w.*)$", page, re.MULTILINE)]

    assert typed(chinese) == typed(english)
    assert chinese.count("](docs/learn/zh/") == english.count("](docs/learn/")
