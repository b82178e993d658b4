"""The guides: what they tell to type is understood, and the walk through own data runs as it stands."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import nn

import danet
from danet.arguments import parse
from danet.cli import COMMANDS
from danet.config import read_config
from danet.data.labels import LabelSpace
from danet.data.scenes import scene
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


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """What the pages' examples take for granted: a picture, a run, a checkpoint, a predicted raster and video."""
    folder = tmp_path_factory.mktemp("workplace")
    street = Image.fromarray(scene(5, 0, 96, 128).image)
    for name in ("street.jpg", "street.png"):
        street.save(folder / name)
    packaged = Path(danet.__file__).parent / "weights" / "street-tiny"
    shutil.copytree(packaged, folder / "runs" / "street" / "best")
    theirs = {"sa": danet.PositionAttention(512), "sc": danet.ChannelAttention()}
    torch.save(danet.weights.rename(nn.ModuleDict(theirs).state_dict(), "original", reverse=True), folder / "mine.pth")
    like = {"driver": "GTiff", "height": 96, "width": 128, "count": 3, "dtype": "uint8"}
    with rasterio.open(folder / "map.tif", "w", **like, transform=rasterio.Affine(1, 0, 500, 0, -1, 900)) as file:
        file.write(np.asarray(street).transpose(2, 0, 1))
    with av.open(folder / "drive.mp4", "w") as video:
        stream = video.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        frames = [av.VideoFrame.from_image(street), None]
        video.mux([packet for frame in frames for packet in stream.encode(frame)])
    model = ["--model", str(folder / "runs" / "street")]
    typed = [sys.executable, "-m", "danet", "predict", "map.tif", "drive.mp4", *model, "-o", "out"]
    subprocess.run(typed, cwd=folder, check=True, capture_output=True)
    typed = [sys.executable, "-m", "danet", "export", *model, "--to", "onnx", "-o", "street-onnx"]
    subprocess.run(typed, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch, of weights that it saves whole
@pytest.mark.parametrize("name", ["README.md", *(f"docs/guides/{name}.md" for name in ("export", "rasters", "video"))])
def test_examples_run_as_they_stand(name, workplace, monkeypatch):
    """But for published weights, which no test fetches."""
    page = (DOCS.parent / name).read_text(encoding="utf-8").replace("pretrained=True", "pretrained=False")
    monkeypatch.chdir(workplace)
    ran = [block for block, _, _ in run(page, name)]
    assert ran


def test_what_the_pages_write_in_yaml_is_read(tmp_path):
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for block in blocks(readme):
        if block.language == "yaml":
            (tmp_path / "labels.yaml").write_text(block.text, encoding="utf-8")
            assert LabelSpace.load(tmp_path / "labels.yaml").names
    recipe = next(
        block for block in blocks((DOCS / "recipes.md").read_text(encoding="utf-8")) if block.language == "yaml"
    )
    (tmp_path / "mine.yaml").write_text(recipe.text, encoding="utf-8")
    assert read_config(tmp_path / "mine.yaml").name == "mine"


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
