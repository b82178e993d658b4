"""Several processes learn what one does: the same losses, gradients, statistics and scores, each image once.

Quick ones fork two processes that find each other as torchrun's do; slow ones start them with torchrun, as a user does,
and disturb them.
"""

import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from danet.config import ModelConfig, Preprocess, read_config
from danet.data.dataset import Dataset
from danet.data.labels import LabelSpace
from danet.data.sources import open_source
from danet.evaluation.evaluate import Report, evaluate
from danet.inference.segmenter import Segmenter
from danet.models.segmentation import build_model
from danet.processes import Processes, joined
from danet.training.data import batches, open_train
from danet.training.loop import train
from danet.training.norm import CrossProcessBatchNorm, statistics_kept
from danet.training.record import read_record
from danet.training.step import Stepper

linux = pytest.mark.skipif(sys.platform != "linux", reason="A run's processes are found as Linux tells of them.")
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "danet.cli", "danet.training.summary", "danet.training.loop"])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PATIENCE = 240
"""Seconds that a process may take; an idle machine needs a tenth."""

CASES = {
    "frozen": {"optim.norm": "frozen", "optim.lr": "0.1"},
    "parts": {"optim.norm": "frozen", "optim.lr": "0.1", "optim.accumulate": "2"},
    "shared": {"optim.norm": "batch", "optim.ema": "0.5"},
    "checkpointing": {"optim.norm": "batch", "checkpointing": "true"},
    "losses": {
        "optim.norm": "batch",
        "optim.class_weights": "median",
        "optim.ohem": "0.7",
        "optim.ohem_kept": "0.2",
        "optim.dice_weight": "0.5",
        "optim.lovasz_weight": "0.5",
        "optim.clip": "1.0",
    },
    "unused": {  # parameters, which some backbones have
        "optim.norm": "frozen",
        "optim.steps": "3",
        "model.backbone": "hrnet_w18_small",
        "model.out_indices": "[-1]",
    },
}


def write_data(folder: Path) -> None:
    """Eight images to learn from and five to score, of whose masks more or less is ignored; and a recipe."""
    generator = np.random.Generator(np.random.Philox(1))
    for split, count in (("train", 8), ("val", 5)):
        for kind in ("images", "masks"):
            (folder / "own" / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = np.kron(generator.integers(0, 3, (3, 4), np.uint8), np.ones((16, 16), np.uint8))
            image = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]], np.uint8)[mask]
            mask[: (0, 40, 8, 47)[index % 4]] = 255
            Image.fromarray(image).save(folder / "own/images" / split / f"{index}.png")
            Image.fromarray(mask).save(folder / "own/masks" / split / f"{index}.png")
    (folder / "own/labels.yaml").write_text("names: [road, car, tree]\n")
    (folder / "own.yaml").write_text(
        f"""
name: own
precision: float32
model: {{backbone: resnet18, out_indices: [1], channels: 8, dropout: 0}}
data: {{source: folder, root: {folder / "own"}, crop: [32, 48], scale: [0.8, 1.2], batch_size: 4, workers: 0}}
optim: {{optimizer: sgd, lr: 0.01, gate_start: 0.3, steps: 10}}
validate_every: 10
"""
    )


def learn(folder: Path, runs: str) -> None:
    """Train each of CASES into RUNS/NAME."""
    for name, settings in CASES.items():
        list(train(read_config(folder / "own.yaml", {**settings, "name": name}), runs=folder / runs))


def losses(run: Path) -> Tensor:
    entries = [entry for entry in read_record(run) if entry["event"] == "step"]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    return torch.tensor([list(entry["losses"].values()) for entry in entries], dtype=torch.float64)


def state(run: Path) -> dict[str, Tensor]:
    """The weights and statistics of the newest checkpoint, and of the moving average."""
    newest = max((run / "checkpoints").glob("step-*.pt"))
    kept = torch.load(newest, weights_only=True)
    return kept["model"] | kept.get("average", {})


def assert_same(one: Path, other: Path, **tolerance: float) -> None:
    torch.testing.assert_close(losses(one), losses(other), **tolerance)
    torch.testing.assert_close(state(one), state(other), **tolerance)


def score(folder: Path, processes: Processes) -> Report:
    """An untrained model on the five images."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="resnet18", out_indices=(1,), channels=8, num_classes=3))
    segmenter = Segmenter(model, LabelSpace("own", ("road", "car", "tree")), Preprocess(), "cpu", "float32")
    data = Dataset(*open_source("folder", "val", root=str(folder / "own")))
    return evaluate(segmenter, data, region=lambda truth: truth == 1, processes=processes)


def normalise_apart(processes: Processes) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of what nn.BatchNorm2d gives for a whole batch, and ours for shares of four images and of two."""
    torch.manual_seed(1)
    whole, ours = nn.BatchNorm2d(7), CrossProcessBatchNorm(7)
    for parameter in whole.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    ours.load_state_dict(whole.state_dict())
    images, wanted = 3 * torch.randn(6, 7, 5, 9) + 2, torch.randn(6, 7, 5, 9)
    images *= torch.linspace(0.1, 2, 6)[:, None, None, None]  # so that the shares' statistics differ
    share = slice(0, 4) if processes.main else slice(4, 6)
    found = []
    for norm, part in ((whole, slice(0, 6)), (ours, share)):
        inputs = images[part].clone().requires_grad_()
        outputs = norm(inputs)
        (outputs * wanted[part]).sum().backward()
        found.append((outputs.detach(), inputs.grad))
    statistics = [tensor.clone() for tensor in ours.buffers()]
    with statistics_kept(ours):
        ours(images[share])
    assert all(torch.equal(before, now) for before, now in zip(statistics, ours.buffers(), strict=True))
    for parameter in ours.parameters():
        processes.sum(parameter.grad)
    pairs = {
        "outputs": (found[0][0][share], found[1][0]),
        "gradient of inputs": (found[0][1][share], found[1][1]),
        "gradient of weight": (whole.weight.grad, ours.weight.grad),
        "gradient of bias": (whole.bias.grad, ours.bias.grad),
        "mean": (whole.running_mean, ours.running_mean),
        "variance": (whole.running_var, ours.running_var),
        "batches": (whole.num_batches_tracked, ours.num_batches_tracked),
        "in use": (whole.eval()(images).detach(), ours.eval()(images).detach()),
    }
    apart = nn.BatchNorm2d(7)(images[share])
    pairs["statistics of the share alone"] = (nn.BatchNorm2d(7)(images)[share].detach(), apart.detach())
    return pairs


def work(rank: int, port: int, folder: Path) -> None:
    """What each of two processes does; the first writes what came of it into `folder`."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    torch.set_num_threads(1)
    names, step = [], Stepper.step

    def noted(self: Stepper, number: int, images: Tensor, masks: Tensor, files: list[str]) -> Any:
        names.append(files)
        return step(self, number, images, masks, files)

    with joined() as processes:
        with patch.object(Stepper, "step", noted):
            learn(folder, "two")
        found = {
            "names": processes.gather(names),
            "sum": processes.sum(torch.tensor([rank + 1.0])).item(),
            "any": [processes.any(rank == 1), processes.any(False)],
            "of the main": processes.of_main(f"told by {rank}"),
            "norms": processes.gather(normalise_apart(processes)),
            "reports": processes.gather(score(folder, processes)),
        }
        began = time.monotonic()
        with processes.main_first():
            if processes.main:
                time.sleep(0.3)
            found["began"] = time.monotonic() - began
        found["began"] = processes.gather(found["began"])
        if processes.main:
            torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with runs by one process (one/) and by two (two/), and what the two found beside."""
    folder = tmp_path_factory.mktemp("both")
    write_data(folder)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun keeps one
    started = [FORKED.Process(target=work, args=(rank, store.port, folder)) for rank in range(2)]
    for process in started:
        process.start()
    try:
        learn(folder, "one")
        for process in started:
            process.join(PATIENCE)
        assert [process.exitcode for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return folder, torch.load(folder / "found.pt", weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(both, case):
    folder, _ = both
    one = losses(folder / "one" / case)
    assert (one[0] - one[-1]).abs().max() > 1e-2  # it did learn
    assert_same(folder / "one" / case, folder / "two" / case, **CLOSE)


def test_each_process_has_its_part_of_every_batch(both):
    folder, found = both
    first, second = found["names"]
    expected = []
    for settings in CASES.values():
        config = read_config(folder / "own.yaml", settings)
        feed = batches(config, open_train(config)[0], 0)
        expected += [names for _, _, names in islice(feed, config.optim.steps)]
    assert [one + other for one, other in zip(first, second, strict=True)] == expected
    assert {len(names) for names in first + second} == {2}


def test_norms_of_unequal_shares_are_those_of_the_whole_batch(both):
    for pairs in both[1]["norms"]:
        *_, apart = pairs.values()
        assert (apart[0] - apart[1]).abs().max() > 0.1  # it does matter
        for name in list(pairs)[:-1]:
            torch.testing.assert_close(pairs[name][1], pairs[name][0], msg=name, **CLOSE)


def test_shares_of_a_validation_add_up_to_the_whole(both):
    folder, found = both
    alone = score(folder, Processes())
    assert [Path(image.name).name for image in alone.images] == [f"{index}.png" for index in range(5)]
    for report in found["reports"]:
        assert np.array_equal(report.scores.confusion, alone.scores.confusion)
        assert np.array_equal(report.region.confusion, alone.region.confusion)
        assert report.images == alone.images


def test_processes_tell_one_another(both):
    _, found = both
    assert found["sum"] == 3
    assert found["any"] == [True, False]
    assert found["of the main"] == "told by 0"
    assert found["began"][1] > 0.25  # the main process was first


# --- as a user starts them ---

OPTIONS = ["own.yaml", "--optim.norm", "batch", "--optim.steps", "40", "--validate_every", "20", "--data.workers", "1"]
EACH_STEP = ["--save_minutes", "1e-9"]


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def descendants(pid: int) -> list[int]:
    """And those that these have started."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


class Torchrun:
    """`torchrun … -m danet train OPTIONS` in `folder`, two processes of it; what they say goes to folder/NAME.log.

    launch: torchrun's own options; largest: no file may become larger.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *options: str,
        launch: Sequence[str] = ("--standalone", "--nproc-per-node", "2"),
        restarts: int = 0,
        largest: int | None = None,
    ) -> None:
        self.run, self.log = folder / "runs" / name, folder / f"{name}.log"
        start = [sys.executable, "-m", "torch.distributed.run", *launch, "--max-restarts", str(restarts)]
        told = [*start, "-m", "danet", "train", *OPTIONS, "--name", name, *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                told,
                cwd=folder,
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # a group of its own, as in a terminal
                preexec_fn=largest and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))),
            )

    def __enter__(self) -> "Torchrun":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # its processes with it
            self.process.wait(PATIENCE)

    def done(self) -> int:
        """The last step's number, so far."""
        entries = read_record(self.run) if (self.run / "metrics.jsonl").is_file() else []
        return max((entry["step"] for entry in entries if entry["event"] == "step"), default=0)

    def wait_for(self, step: int) -> None:
        end = time.monotonic() + PATIENCE
        while self.done() < step:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.02)

    def worker(self, rank: int) -> int:
        """The process of that rank."""
        told = f"\0RANK={rank}\0"
        return next(pid for pid in children(self.process.pid) if told in Path(f"/proc/{pid}/environ").read_text())

    def end(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    @property
    def text(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Torchrun]:
    """A folder with data, and a run there that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    with Torchrun(folder, "whole", restarts=1) as run:
        assert run.end() == 0, run.text
    return folder, run


@linux
@pytest.mark.slow
def test_torchrun_starts_one_run_of_two_processes(whole):
    _, run = whole
    assert run.text.count("2 processes") == 1
    assert run.text.count("Report: ") == 1
    assert len(losses(run.run)) == 40
    assert (run.run / "report.html").is_file()


@linux
@pytest.mark.slow
def test_a_restart_does_not_go_on_with_another_launch_s_run(whole):
    folder, run = whole
    before = (run.run / "metrics.jsonl").read_bytes()
    with Torchrun(folder, "whole", restarts=1) as again:
        assert again.end() != 0
    assert again.text.count("runs/whole is there already") == 2  # at first, and as started anew
    assert (run.run / "metrics.jsonl").read_bytes() == before


@linux
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_worker_loses_nothing(whole, rank):
    folder, undisturbed = whole
    with Torchrun(folder, f"lost-{rank}", *EACH_STEP, restarts=2) as run:
        run.wait_for(8)
        os.kill(run.worker(rank), signal.SIGKILL)
        newest = max(int(path.stem.removeprefix("step-")) for path in (run.run / "checkpoints").glob("step-*.pt"))
        lines = (run.run / "metrics.jsonl").read_text().splitlines()
        assert run.end() == 0, run.text
    assert run.text.count("2 processes") == 2
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= newest]
    assert (run.run / "metrics.jsonl").read_text().splitlines()[: len(kept)] == kept  # gone on with, not begun anew
    assert newest >= 7
    assert_same(undisturbed.run, run.run, rtol=0, atol=0)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_lost_on_one_of_two_machines_loses_nothing(whole, rank):
    folder, undisturbed = whole
    meeting = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-conf",
        "store_type=file",
        "--rdzv-endpoint",
        str(folder / f"at-{rank}"),
    ]
    launch = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", f"lost-{rank}", *meeting]
    with ExitStack() as stack:
        machines = [
            stack.enter_context(Torchrun(folder, f"machine-{rank}", *EACH_STEP, launch=launch, restarts=2))
            for _ in range(2)
        ]
        run = machines[0]
        run.wait_for(8)
        found = [pid for machine in machines for pid in children(machine.process.pid)]
        ranks = {re.search(r"\0RANK=(\d)\0", Path(f"/proc/{pid}/environ").read_text())[1]: pid for pid in found}
        os.kill(ranks[str(rank)], signal.SIGKILL)
        assert [machine.end() for machine in machines] == [0, 0], run.text
    assert run.text.count("2 processes") == 2
    assert_same(undisturbed.run, run.run, rtol=0, atol=0)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_alone(whole, number):
    folder, undisturbed = whole
    name = f"stopped-{number}"
    with Torchrun(folder, name) as run:
        run.wait_for(5)
        if number == signal.SIGTERM:  # Slurm's reaches every process of a job, and torchrun sends it on
            for pid in descendants(run.process.pid):
                os.kill(pid, number)
        os.killpg(run.process.pid, number)
        assert run.end() != 0
    assert f"Go on with: danet train --resume runs/{name}" in run.text
    assert not re.search("Another process|RuntimeError|killed by signal", run.text)  # both stopped after the same step
    stopped = run.done()
    assert 5 <= stopped < 40
    assert [path.stem for path in (run.run / "checkpoints").iterdir()][-1] == f"step-{stopped:07d}"
    config = read_config(run.run / "config.yaml")
    list(train(config, resume=True, runs=folder / "runs"))
    assert_same(undisturbed.run, run.run, rtol=1e-4, atol=1e-4)  # rounding, over forty steps


@linux
@pytest.mark.slow
def test_a_fault_of_one_ends_all(tmp_path):
    write_data(tmp_path)
    with Torchrun(tmp_path, "bad") as run:
        run.wait_for(3)
        Image.fromarray(np.full((48, 64), 77, np.uint8)).save(tmp_path / "own/masks/train/0.png")  # one process's
        assert run.end() != 0
    assert len(re.findall(r"danet: .*0\.png.* value 77", run.text)) == 1, run.text
    assert run.text.count("Traceback (most recent call last)") == 1, run.text  # torchrun's own


@linux
@pytest.mark.slow
def test_a_full_disk_ends_all(tmp_path):
    write_data(tmp_path)
    with Torchrun(tmp_path, "full", *EACH_STEP, largest=100_000) as run:
        assert run.end() != 0
    assert len(re.findall(r"danet: .*step-0000001\.pt cannot be written", run.text)) == 1, run.text
