"""The guide's examples, run as they stand, but for the port."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.serving.process import Server, photograph

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(3))
def test_the_guides_examples_run(server: Server, tmp_path: Path, number: int):
    examples = re.findall(r"```(sh|python)\n(.*?)```", GUIDE, re.DOTALL)
    assert [kind for kind, _ in examples] == ["sh", "python", "python"]
    kind, text = examples[number]
    if kind == "sh" and shutil.which("curl") is None:
        pytest.skip("There is no curl here.")
    Image.fromarray(photograph(0, 96, 128)).save(tmp_path / "street.jpg")
    command = ["sh", "-e", "-c"] if kind == "sh" else [sys.executable, "-c"]
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    done = subprocess.run([*command, text], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    if kind == "sh":
        with Image.open(tmp_path / "labels.png") as labels:
            assert labels.size == (128, 96)
    else:
        assert ("sum 1.0000" if "weights" in text else "road") in done.stdout


def test_the_guide_tells_of_every_option_and_address(server: Server):
    told = subprocess.run(
        [sys.executable, "-m", "danet", "serve", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for option in set(re.findall(r"--[a-z-]+", told)) - {"--help", "--json", "--debug"}:
        assert f"`{option}" in GUIDE, option
    for path in server.get("/openapi.json").json["paths"]:
        assert path.partition("{")[0] in GUIDE, path
    for code in re.findall(
        r"`([a-z]+_[a-z_]+|busy|timeout)`", GUIDE.partition("| status |")[2].partition("## Safety")[0]
    ):
        assert code in (Path(__file__).parents[2] / "src/danet/serving/problems.py").read_text()
