"""Two processes that share the images count what one does, and `danet evaluate` in two writes and speaks once."""

import json
import multiprocessing
import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from danet.cli import main
from danet.config import ModelConfig, Preprocess
from danet.data.dataset import Dataset
from danet.data.labels import LabelSpace
from danet.data.sources import open_source
from danet.evaluation.evaluate import Report, evaluate
from danet.inference.segmenter import Segmenter
from danet.models.segmentation import build_model
from danet.processes import Processes, joined
from danet.weights.bundle import Bundle, save_bundle

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "danet.evaluation.folder", "danet.data.sources", "danet.console"])
PATIENCE = 240
NAMES = ("ground", "thing")


def bundle() -> Bundle:
    """An untrained model of two classes."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet18", out_indices=(1,), channels=8, num_classes=2)
    return Bundle(build_model(config), config, LabelSpace("own", NAMES), Preprocess())


def score(folder: Path, processes: Processes) -> Report:
    """The model on the five images, of which some pixels are void."""
    segmenter = Segmenter(bundle().model, LabelSpace("own", NAMES), Preprocess(), "cpu", "float32")
    data = Dataset(*open_source("folder", "val", root=str(folder)))
    return evaluate(segmenter, data, region=lambda truth: truth == 1, processes=processes)


def command(folder: Path, precision: str, *options: str) -> tuple[int, str, str]:
    """`danet evaluate` of the model on the five images, where the trial of precisions comes to `precision`: exit code,
    stdout, stderr."""
    told = ["evaluate", str(folder / "model"), "--data.source", "folder", "--data.root", str(folder), "--device", "cpu"]
    trial = patch("danet.inference.device._faster_precision", lambda device: precision)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err, trial:
        code = main([*told, *options])
    return code, out.getvalue(), err.getvalue()


def work(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)
    with joined() as processes:
        torch.save(score(folder, processes), folder / f"{rank}.pt")
        precision = "float32" if processes.main else "bfloat16"
        said = command(folder, precision, "-o", str(folder / "two"))
        refused = command(folder, precision, "--submission", str(folder / "sent"))
        torch.save((said, refused), folder / f"said-{rank}.pt")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes did there."""
    folder = tmp_path_factory.mktemp("shared")
    save_bundle(folder / "model", bundle())
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
        for process in started:
            process.join(PATIENCE)
        assert [process.exitcode for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return folder


def test_counts_are_those_of_one_process(shared):
    alone, *others = score(shared, Processes()), *(torch.load(shared / f"{n}.pt", weights_only=False) for n in range(2))
    assert alone.scores.pixels < 5 * 48 * 64
    assert alone.binary.counts.sum() == alone.scores.pixels
    for report in others:
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


def test_the_command_writes_and_speaks_once(shared):
    """In the main process's precision, too, whatever another's trial comes to."""
    (said, refused), (silent, refused_too) = (torch.load(shared / f"said-{rank}.pt") for rank in range(2))
    assert (said[0], *silent) == (0, 0, "", "")
    assert said[1].count("Report: ") == 1
    code, _, err = command(shared, "float32", "-o", str(shared / "one"))
    assert code == 0, err
    one, two = (json.loads((shared / name / "report.json").read_text()) for name in ("one", "two"))
    assert one.pop("calibration")["error"] == pytest.approx(two.pop("calibration")["error"])  # sums of floats
    assert one == two
    assert (one["precision"], one["image_count"]) == ("float32", 5)
    for code, out, err in (refused, refused_too):
        assert (code, out) == (2, "")
        assert err == "danet: --submission is written by one process alone; start danet evaluate without torchrun.\n"
    assert not (shared / "sent").exists()
