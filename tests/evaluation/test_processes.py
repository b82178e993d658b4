"""Two processes that share the images count what one does."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from danet.config import ModelConfig, Preprocess
from danet.data.dataset import Dataset
from danet.data.labels import LabelSpace
from danet.data.sources import open_source
from danet.evaluation.evaluate import Report, evaluate
from danet.inference.segmenter import Segmenter
from danet.models.segmentation import build_model
from danet.processes import Processes, joined

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "danet.evaluation.evaluate", "danet.data.sources"])
PATIENCE = 240
NAMES = ("ground", "thing")


def score(folder: Path, processes: Processes) -> Report:
    """An untrained model of two classes on the five images, of which some pixels are void."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="resnet18", out_indices=(1,), channels=8, num_classes=2))
    segmenter = Segmenter(model, LabelSpace("own", NAMES), Preprocess(), "cpu", "float32")
    data = Dataset(*open_source("folder", "val", root=str(folder)))
    return evaluate(segmenter, data, region=lambda truth: truth == 1, processes=processes)


def work(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)
    with joined() as processes:
        torch.save(score(folder, processes), folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """The report of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("shared")
    generator = np.random.Generator(np.random.Philox(2))
    for kind in ("images", "masks"):
        (folder / kind / "val").mkdir(parents=True)
    for index in range(5):
        image = generator.integers(0, 256, (48, 64, 3), np.uint8)
        mask = np.kron(generator.choice(np.array([0, 1, 255], np.uint8), (6, 8)), np.ones((8, 8), np.uint8))
        Image.fromarray(image).save(folder / f"images/val/{index}.png")
        Image.fromarray(mask).save(folder / f"masks/val/{index}.png")
    (folder / "labels.yaml").write_text(f"names: [{', '.join(NAMES)}]\n")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun keeps one
    started = [FORKED.Process(target=work, args=(rank, store.port, folder)) for rank in range(2)]
    for process in started:
        process.start()
    try:
        alone = score(folder, Processes())
        for process in started:
            process.join(PATIENCE)
        assert [process.exitcode for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [alone, *(torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2))]


def test_counts_are_those_of_one_process(reports):
    alone, *shared = reports
    assert alone.scores.pixels < 5 * 48 * 64
    assert alone.binary.counts.sum() == alone.scores.pixels
    for report in shared:
        for name, one, other in (
            ("confusion", alone.scores.confusion, report.scores.confusion),
            ("region", alone.region.confusion, report.region.confusion),
            ("boundary", alone.boundary.counts, report.boundary.counts),
            ("calibration", alone.calibration.pixels, report.calibration.pixels),
            ("binary", alone.binary.counts, report.binary.counts),
        ):
            assert other.dtype == np.int64, name
            assert np.array_equal(one, other), name
        assert report.calibration.confidence == pytest.approx(alone.calibration.confidence)
        assert report.images == alone.images
