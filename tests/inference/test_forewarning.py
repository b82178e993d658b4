"""A forward that will take long, or much of the memory, says so first."""

import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from danet import load
from danet.inference import forewarning
from danet.inference.forewarning import Forewarning

CPU = torch.device("cpu")
LARGE = torch.zeros(1, 1, 1024, 1100)


class Slow:
    """A network that takes a microsecond a pixel, and notes what it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        self.seen.append(tuple(images.shape))
        time.sleep(1e-6 * images.numel())


def told(forewarn, images):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forewarn(images)
    return [str(one.message) for one in caught]


def test_a_piece_says_how_long_the_whole_will_take(monkeypatch):
    monkeypatch.setattr(forewarning, "free_memory", lambda device: 10**12)
    network = Slow()
    forewarn = Forewarning(network, CPU)
    assert told(forewarn, LARGE) == []  # about 1.1 s
    monkeypatch.setattr(forewarning, "LONG", 1.0)
    (words,) = told(forewarn, LARGE)
    assert words.startswith("One forward of 1100×1024 pixels will take 1 s or more; windows take less memory")
    assert told(forewarn, LARGE) == [], "once for each size"
    assert len(told(forewarn, torch.zeros(1, 1, 1024, 1101))) == 1
    assert network.seen == 2 * [(1, 1, 256, 256)], "looked into once"


def test_of_a_small_image_nothing_is_looked_into(monkeypatch):
    monkeypatch.setattr(forewarning, "LONG", 0.0)
    network = Slow()
    assert told(Forewarning(network, CPU), torch.zeros(1, 1, 1000, 1000)) == []
    assert network.seen == []


def test_half_of_the_free_memory_is_much(monkeypatch):
    for free, count in ((2_400_000_000, 0), (2_200_000_000, 1), (None, 0)):
        monkeypatch.setattr(forewarning, "free_memory", lambda device, free=free: free)
        found = told(Forewarning(Slow(), CPU), LARGE)
        assert len(found) == count
    monkeypatch.setattr(forewarning, "free_memory", lambda device: 1_000_000_000)
    (words,) = told(Forewarning(Slow(), CPU), LARGE)
    assert "take about 1.2 GB of memory, of which 1.0 GB are free; windows" in words


def test_a_segmenter_tells_and_predicts_the_same(monkeypatch):
    monkeypatch.setattr(forewarning, "LARGE", 2**16)
    image = np.random.default_rng(0).integers(256, size=(320, 300, 3), dtype=np.uint8)
    segmenter = load(device="cpu", precision="float32")
    plain = segmenter.predict(image, "whole-original").labels
    monkeypatch.setattr(forewarning, "LONG", 0.0)
    with pytest.warns(UserWarning, match="One forward of 300×320 pixels will take"):
        assert np.array_equal(segmenter.predict(image, "whole-original").labels, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter.predict(image, "whole")  # at most 256 pixels a side, by the size rule


def test_the_command_line_tells_in_a_line(tmp_path):
    Image.fromarray(np.zeros((320, 300, 3), np.uint8)).save(tmp_path / "image.png")
    code = (
        "from danet.cli import main; from danet.inference import forewarning; "
        "forewarning.LONG, forewarning.LARGE = 0.0, 2**16; "
        f"main(['predict', {str(tmp_path / 'image.png')!r}, '-o', {str(tmp_path / 'out')!r}, '--protocol', "
        "'whole-original'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "danet: One forward of 300×320 pixels will take" in done.stderr
    assert (tmp_path / "out" / "image.png").is_file()
