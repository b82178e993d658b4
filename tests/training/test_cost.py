"""What a step takes: computed against what really lives, and what a user is told before and after memory runs out."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from danet.cli import main
from danet.config import ModelConfig, read_config
from danet.errors import InputError
from danet.models.segmentation import build_model
from danet.training import cost
from danet.training.cost import memory_explained, model_cost, options, refuse_too_large, step_memory

CPU = torch.device("cpu")
SMALL = {
    "model.backbone": "resnet18",
    "model.out_indices": "[2]",
    "model.channels": "32",
    "model.num_classes": "5",
    "data.crop": "[64, 96]",
    "data.batch_size": "4",
    "precision": "float32",
}


def config(**fields):
    return read_config(None, SMALL | {name.replace("__", "."): str(value) for name, value in fields.items()})


def test_large_maps_count_their_attention_too():
    """Above 2,048 places it is one operator, whose operations are told to the counter."""
    flops = {
        head: round(
            model_cost(ModelConfig(head=head, backbone="resnet18", out_indices=(1,), channels=16), size).gflops * 1e9
        )
        for head in ("fcn", "pam")
        for size in [(256, 384)]
    }
    places, d, c = 64 * 96, 2, 16
    assert flops["pam"] - flops["fcn"] == 2 * places**2 * (d + c) + 2 * places * c * (2 * d + c)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema", [0, 0.9])
def test_the_optimizer_and_the_average_are_counted(optimizer, ema):
    """What stays between two steps, in weights: themselves, the optimizer's one or two, the average; and gradients."""
    run = config(
        optim__optimizer=optimizer, optim__ema=ema, data__crop="[32, 32]", data__batch_size=1, optim__norm="frozen"
    )
    parameters = sum(p.numel() for p in build_model(run.model).parameters())
    copies = 2 + (2 if optimizer == "adamw" else 1) + bool(ema)
    assert 4 * parameters * copies < step_memory(run) < 4 * parameters * (copies + 1.5)


WORKSPACES = 10**9
"""In bytes: what operators on a CPU take for themselves in these steps, with the libraries that they load, and more."""
REAL_STEP = """
import sys, torch
from danet.config import read_config
from danet.training.cost import step_memory
from danet.models.segmentation import build_model
from danet.training.losses import Criterion
from danet.training.provenance import peak_memory, reset_peak_memory, resident_memory
from danet.training.state import State
from danet.training.step import Stepper
torch.set_num_threads(1)
cpu, run = torch.device("cpu"), read_config(None, dict(field.split("=") for field in sys.argv[1:]))
before = resident_memory(cpu)
model = build_model(run.model).to(memory_format=torch.channels_last)
taken = Stepper(run, State.of(model, run, cpu), Criterion(), cpu, run.precision)
images = torch.zeros(run.data.batch_size, 3, *run.data.crop, dtype=torch.uint8)
masks = torch.zeros(run.data.batch_size, *run.data.crop, dtype=torch.int64)
reset_peak_memory(cpu)
for number in range(2):
    taken.step(number, images, masks, [])
print(peak_memory(cpu) - before, step_memory(run))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="A process's peak is told by Linux alone.")
def test_what_is_computed_is_what_a_real_step_takes():
    """A process's memory at the peak of a step less that before; operators' own workspaces are not computed."""
    told = {"model.backbone": "resnet50", "model.num_classes": "19", "data.batch_size": "2"}
    told["data.crop"] = "[416, 416]"
    told |= {"precision": "float32", "optim.optimizer": "sgd"}
    command = [sys.executable, "-c", REAL_STEP, *(f"{name}={value}" for name, value in told.items())]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    real, computed = map(int, found.stdout.split())
    assert 0.95 * computed < real < computed + WORKSPACES


def test_each_option_takes_less_and_says_how():
    whole, *others = options(config(data__crop="[256, 256]"))
    assert whole.fields == {}
    assert all(option.memory < whole.memory for option in others)
    words = [option.words for option in others]
    assert words == [
        "--checkpointing true",
        "--optim.accumulate 2",
        "--checkpointing true --optim.accumulate 2",
        "--data.crop '[192, 192]'",
    ]


def test_a_step_that_cannot_fit_is_refused_before_it_is_tried(monkeypatch):
    monkeypatch.setattr(cost, "free_memory", lambda device: 20_000_000)
    run = config(data__batch_size=8)
    with pytest.raises(
        InputError, match=r"A step takes 0\.\d GB, and 0\.0 GB are free\. As it is .*less: --checkpointing"
    ):
        refuse_too_large(run, CPU)
    refuse_too_large(run, CPU, processes=8)
    monkeypatch.setattr(cost, "free_memory", lambda device: None)
    refuse_too_large(run, CPU)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="sizes"), memory_explained(config()):
        raise RuntimeError("sizes do not match")
    with pytest.raises(InputError, match=r"ran out of memory .*less: --checkpointing true"), memory_explained(config()):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="The system's limit on memory is Linux's.")
def test_running_out_of_memory_for_real_ends_in_one_line(own_data, tmp_path):
    """A process that may have little more than its libraries take, and a crop that wants far more."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (6 * 10**9, 6 * 10**9))

    command = [sys.executable, "-m", "danet", "train", "own.yaml", "--model.backbone", "resnet50"]
    large = ["--data.crop", "[2048, 2048]", "--data.batch_size", "2", "--model.out_indices", "[-1]"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    found = subprocess.run(
        [*command, *large], cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, env=environment, timeout=600
    )
    assert found.returncode == 2, found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert "Traceback" not in found.stderr
    assert "--checkpointing true (" in last
    assert "--optim.accumulate 2 (" in last


def test_a_rehearsal_tells_what_a_run_takes_and_leaves_nothing(own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert main(["train", "own.yaml", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["cost"]["parameters"] == sum(
        p.numel() for p in build_model(read_config("own.yaml").model).parameters()
    ) - ((19 - 3) * 3 * 9)
    assert set(found["losses"]) == {"fused", "position", "channel"}
    assert found["seconds"] == pytest.approx(4 * found["step_seconds"] + 2 * found["validation_seconds"])
    assert found["options"][0]["fields"] == {}
    assert found["options"][1]["fields"] == {"checkpointing": True}
    assert found["memory"] >= found["memory_before"] - 10**8
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert main(["train", "own.yaml", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert all(words in told for words in ("parameters", "GFLOP", "to the end", "measured", "--checkpointing true"))
    assert main(["train", "own.yaml", "--dry-run", "--data.root", "nowhere"]) == 2
