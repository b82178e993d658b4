"""Nothing is lost: runs that are killed, that find the disk full, their folder taken or their record damaged.

Processes are real ones. Most are forked from one that has imported danet already, to save the seconds of that.
"""

import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from danet.cli import main
from danet.config import RunConfig, read_config
from danet.errors import InputError
from danet.evaluation.metrics import Scores
from danet.files import LOCK, claimed
from danet.training import loop
from danet.training.ablation import ablate, plan
from danet.training.events import Saved, Step, Validated
from danet.training.loop import train
from danet.training.record import RECORD, read_record
from danet.training.summary import report_runs

linux = pytest.mark.skipif(sys.platform != "linux", reason="Processes are stopped and looked at as Linux lets one.")
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "danet.cli", "danet.training.summary", "danet.training.loop"])


@pytest.fixture
def recipe(own_data, tmp_path):
    def read(**overrides):
        return read_config(tmp_path / "own.yaml", {name.replace("__", "."): str(v) for name, v in overrides.items()})

    return read


def command(arguments: list[str], folder: Path, log: Path, first: Callable[[], None] | None) -> None:
    """`danet` with `arguments` in `folder`, as a process of its own; stdout and stderr go to `log`."""
    multiprocessing.set_start_method(None, force=True)  # for its workers, as in a process that was not forked so
    torch.set_num_threads(1)
    os.chdir(folder)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if first is not None:
        first()
    sys.exit(main(arguments))


def forked(arguments: list[str], folder: Path, log: Path, first: Callable[[], None] | None = None) -> BaseProcess:
    """Start `danet` with `arguments` in `folder`, after `first`."""
    process = FORKED.Process(target=command, args=(arguments, folder, log, first))
    process.start()
    STARTED.append(process)
    return process


class Real:
    """`danet` with `arguments` in `folder`, started as a user does, with what one asks of a forked process."""

    def __init__(self, arguments: list[str], folder: Path, log: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "danet", *arguments], cwd=folder, stdout=file, stderr=file, env=environment
            )
        self.pid = self._process.pid
        STARTED.append(self)

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def is_alive(self) -> bool:
        return self.exitcode is None

    def join(self) -> None:
        self._process.wait()


Danet = BaseProcess | Real
STARTED: list[Danet] = []


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    yield
    for process in STARTED:
        if process.is_alive():
            kill(process)
    STARTED.clear()


def ended(process: Danet) -> int:
    process.join()
    code = process.exitcode
    assert code is not None
    return code


def wait_for(what: Callable[[], Any], process: Danet) -> None:
    """Look until `what` is there; the process must live until then."""
    while not what():
        assert process.is_alive() or what(), "the process ended before its moment came"
        time.sleep(0.0005)


def kill(process: Danet) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL, "it had ended by itself"


def kill_at(moment: Callable[[], Any], process: Danet) -> None:
    """Kill the process while `moment` is: it is stopped first, and goes on where it was too quick."""
    assert process.pid is not None
    while True:
        wait_for(moment, process)
        os.kill(process.pid, signal.SIGSTOP)
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
            time.sleep(0.0005)
        if moment():
            return kill(process)
        os.kill(process.pid, signal.SIGCONT)


def last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    assert "Traceback" not in log.read_text(), lines
    return lines[-1]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != LOCK]


def story(folder: Path) -> list[dict[str, Any]]:
    """What a run's record says of steps and validations, but for time and memory."""
    apart = {"seconds", "images_per_second", "memory"}
    told = [entry for entry in read_record(folder) if entry["event"] in ("step", "validated")]
    return [{key: value for key, value in entry.items() if key not in apart} for entry in told]


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Nested values and tensors, each bit of them."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}/{index}")
    else:
        assert found == expected, where


def assert_same_run(found: Path, expected: Path) -> None:
    """The last checkpoint, the best model and the record are those of `expected`, and nothing else is left."""
    last, expected_last = (max((folder / "checkpoints").glob("*.pt")) for folder in (found, expected))
    assert last.name == expected_last.name
    assert_same(*(torch.load(path, weights_only=True) for path in (last, expected_last)))
    best, expected_best = found / "best", expected / "best"
    assert (best / "model.safetensors").read_bytes() == (expected_best / "model.safetensors").read_bytes()
    scores, expected_scores = (
        json.loads((folder / "config.json").read_text())["scores"] for folder in (best, expected_best)
    )
    assert scores == expected_scores
    assert story(found) == story(expected)
    assert leftovers(found) == []


def newest(folder: Path) -> dict[str, Any]:
    """The last whole line of a run's record."""
    lines = (folder / RECORD).read_bytes().split(b"\n") if (folder / RECORD).exists() else []
    return json.loads(lines[-2]) if len(lines) > 1 else {"event": "none", "step": 0}


EVERY, STEPS, KILLS = 10, 150, 20


def moments(folder: Path, draw: random.Random) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What a process does when it is killed, and whether it is doing that, asked for before the process starts.

    What an earlier process has left does not count: it is gone when config.yaml has been replaced.
    """

    def config() -> int:
        return (folder / "config.yaml").stat().st_ino if (folder / "config.yaml").exists() else 0

    def soon() -> Callable[[], bool]:
        wanted, after, since = newest(folder)["step"] + draw.randint(1, 8), draw.uniform(0, 0.06), list[float]()

        def passed() -> bool:
            if newest(folder)["step"] >= wanted:
                since.append(time.perf_counter())
            return bool(since) and time.perf_counter() - since[0] >= after

        return passed

    def start() -> Callable[[], bool]:
        until = time.perf_counter() + draw.uniform(0, 2)
        return lambda: time.perf_counter() >= until

    def at(doing: Callable[[], bool], steps: int = 0) -> Callable[[], bool]:
        before, wanted = config(), newest(folder)["step"] + draw.randint(0, steps)
        return lambda: config() != before and newest(folder)["step"] >= wanted and doing()

    def validating() -> bool:
        last = newest(folder)
        return last["event"] == "saved" and last["path"] != "best" and last["step"] % EVERY == 0

    kinds = {
        "start": start,
        "go on for a while": soon,
        "write a checkpoint": lambda: at(lambda: any((folder / "checkpoints").glob(".step-*.part")), steps=3),
        "validate": lambda: at(validating),
        "write the first best": lambda: at(lambda: any(folder.glob(".best-*"))),
        "replace the best": lambda: at(lambda: any(folder.glob(".best-*")) and (folder / "best").exists()),
    }
    first = ["go on for a while", "write a checkpoint", "write the first best"]
    counts = {"write a checkpoint": 4, "validate": 3, "replace the best": 2, "go on for a while": 5, "start": 2}
    rest = [kind for kind, count in counts.items() for _ in range(count)]
    draw.shuffle(rest)
    yield "begin", lambda: (folder / LOCK).exists()
    for kind in first + rest:
        yield kind, kinds[kind]()


@linux
@pytest.mark.slow
def test_twenty_kills_change_nothing(own_data, tmp_path):
    draw = random.Random(20)
    settings = {
        "optim.steps": STEPS,
        "validate_every": EVERY,
        "save_minutes": 1e-9,
        "keep": 3,
        "optim.ema": 0.9,
        "optim.lr": 0.05,
        "data.photometric": 0.3,
        "data.scale": "[0.8, 1.3]",
        "data.batch_size": 2,
    }
    begin = ["train", str(tmp_path / "own.yaml"), *(f"--{name}={value}" for name, value in settings.items())]
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    assert ended(forked(begin, tmp_path / "whole", tmp_path / "whole.txt")) == 0, (tmp_path / "whole.txt").read_text()

    folder, log, kills = tmp_path / "parts/runs/own", tmp_path / "parts.txt", 0
    config, workers = folder / "config.yaml", set[str]()
    go_on = ["train", "--resume", "runs/own"]
    for name, moment in moments(folder, draw):
        if config.exists():
            text, count = re.subn(r"\bworkers: \d+", f"workers: {draw.choice((0, 1, 2))}", config.read_text())
            assert count == 1
            config.write_text(text)
            workers.update(re.findall(r"\bworkers: \d+", text))
        launch = Real if kills % 5 == 0 else forked
        process = launch(go_on if config.exists() else begin, tmp_path / "parts", log)
        kill_at(moment, process)
        kills += 1
        sys.stdout.write(f"{kills}: {name}, at step {newest(folder)['step']}; left {leftovers(folder)}\n")
    assert kills == KILLS
    assert workers == {"workers: 0", "workers: 1", "workers: 2"}
    assert ended(Real(go_on, tmp_path / "parts", log)) == 0, log.read_text()
    assert "danet: " not in log.read_text()
    assert_same_run(folder, tmp_path / "whole/runs/own")


def weights(folder: Path) -> bytes:
    return (folder / "best" / "model.safetensors").read_bytes()


@pytest.fixture
def whole(recipe, tmp_path):
    """The folder of a run that nothing has interrupted, of as many steps as `recipe()` has."""
    list(train(recipe(), runs=tmp_path / "whole"))
    return tmp_path / "whole/own"


def stopped_at(config: RunConfig, runs: Path, step: int) -> Path:
    """The folder of a run that was left after `step`, which is kept."""
    events = train(config, runs=runs)
    next(event for event in events if event.step == step)
    events.close()
    return runs / config.name


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(recipe, whole, tmp_path):
    folder, log = stopped_at(recipe(), tmp_path / "runs", 3), tmp_path / "log.txt"
    before = {path: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    size = max(map(len, before.values())) // 2
    process = forked(["train", "--resume", "runs/own"], tmp_path, log, partial(limit_files, size))
    assert ended(process) == 2
    assert last_line(log) == (
        f"danet: {folder}/checkpoints/step-0000004.pt cannot be written (File too large); "
        f"make room, then go on from step-0000003.pt with --resume {folder}."
    )
    assert log.read_text().count("danet: ") == 1
    assert {path: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before
    list(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert_same_run(folder, whole)


@contextmanager
def full(disk: Path, spare: int = 0) -> Iterator[None]:
    """A disk with no more than `spare` bytes left."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
            file.truncate(max(0, filler.stat().st_size - spare))
        yield
    finally:
        filler.unlink()


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, which can be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("A small disk to fill can be mounted by root alone.")
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)]
    if (found := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"A small disk to fill cannot be mounted here: {found.stderr.strip()}.")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


FULL = {
    "config.yaml": (lambda event: event is None, "config.yaml"),
    "record": (lambda event: isinstance(event, Step) and event.step == 1, RECORD),
    "checkpoint": (lambda event: isinstance(event, Step) and event.step == 4, "checkpoints/step-0000004.pt"),
    "best": (lambda event: isinstance(event, Saved) and event.step == 2 and event.path.name != "best", "best"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_one_line_and_loses_nothing(recipe, disk, tmp_path, name):
    begins, path = FULL[name]
    settings = {"optim__steps": 20, "validate_every": 20} if name == "record" else {}
    list(train(recipe(**settings), runs=tmp_path / "whole"))
    config, folder = recipe(**settings), disk / "runs/own"
    events, event = train(config, runs=disk / "runs"), None
    while not begins(event):
        event = next(events)
    with full(disk), pytest.raises(InputError) as caught:
        list(events)
    line = str(caught.value)
    assert line.startswith(f"{folder}/{path} cannot be written")
    assert re.search(r"\(.*No space left on device.*\); make room", line)
    assert "\n" not in line
    list(train(config, resume=(folder / "config.yaml").exists(), runs=disk / "runs"))
    assert_same_run(folder, tmp_path / "whole/own")


@pytest.mark.slow
def test_a_full_disk_ends_the_command_in_one_line(own_data, disk, tmp_path):
    begin = ["train", str(tmp_path / "own.yaml"), "--optim.steps=100", "--validate_every=100", "--precision=float32"]
    process = Real(begin, disk, tmp_path / "log.txt")
    wait_for(lambda: newest(disk / "runs/own")["step"] >= 2, process)
    with full(disk):
        assert ended(process) == 2
    line = last_line(tmp_path / "log.txt")
    assert line == (
        f"danet: runs/own/{RECORD} cannot be written (No space left on device); "
        "make room, then go on with --resume runs/own."
    )


@linux
def test_a_run_has_one_process_and_is_free_when_that_is_killed(recipe, own_data, tmp_path):
    log, folder = tmp_path / "log.txt", tmp_path / "runs/own"
    long = ["--optim.steps=500", "--validate_every=500", "--data.workers=2", "--save_minutes=1e-9"]
    first = forked(["train", str(tmp_path / "own.yaml"), *long], tmp_path, tmp_path / "first.txt")
    wait_for(lambda: newest(folder)["step"] >= 2, first)
    second = forked(["train", "--resume", "runs/own"], tmp_path, log)
    assert ended(second) == 2
    assert last_line(log) == (
        f"danet: {folder} is in use by another process; wait for its end, or choose another name."
    )
    with pytest.raises(InputError, match="is there already; go on with --resume"):
        next(train(recipe(), runs=tmp_path / "runs"))
    assert first.is_alive()
    kill(first)
    with claimed(folder):  # at once, though its workers have not noticed yet
        pass
    resumed = next(train(read_config(folder / "config.yaml"), resume=True, runs=tmp_path / "runs"))
    assert resumed.step > 2


def test_of_two_that_begin_together_one_does(own_data, tmp_path):
    logs = [tmp_path / "one.txt", tmp_path / "two.txt"]
    processes = [forked(["train", str(tmp_path / "own.yaml")], tmp_path, log) for log in logs]
    codes = [ended(process) for process in processes]
    assert sorted(codes) == [0, 2], [log.read_text() for log in logs]
    assert re.search(r"is in use by another process|is there already", last_line(logs[codes.index(2)]))
    steps = [entry["step"] for entry in read_record(tmp_path / "runs/own") if entry["event"] == "step"]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("ended_meanwhile", [True, False])
def test_a_run_that_another_began_meanwhile_is_left_alone(recipe, tmp_path, monkeypatch, ended_meanwhile):
    prepare, others = loop.prepare, []

    def slowly(*args, **kwargs):
        monkeypatch.setattr(loop, "prepare", prepare)
        others.append(train(recipe(seed=1), runs=tmp_path / "runs"))
        next(others[0])
        if ended_meanwhile:
            list(others[0])
        return prepare(*args, **kwargs)

    monkeypatch.setattr(loop, "prepare", slowly)
    words = "is there already; go on with --resume" if ended_meanwhile else "is in use by another process"
    with pytest.raises(InputError, match=words):
        next(train(recipe(), runs=tmp_path / "runs"))
    list(others[0])
    list(train(recipe(seed=1), runs=tmp_path / "alone"))
    assert_same_run(tmp_path / "runs/own", tmp_path / "alone/own")


def test_an_ablation_leaves_the_folder_of_a_run_that_is_just_beginning(own_data, tmp_path):
    planned = plan(tmp_path / "own.yaml", {}, ["fcn"], [0], [])
    folder = tmp_path / planned[0].name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(planned[0].to_yaml())

    def watch(name, events, steps):
        list(events)

    with claimed(folder), pytest.raises(InputError, match="in use by another process"):
        ablate(planned, watch, runs=tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [LOCK, "config.yaml"]


def die_between_renames() -> None:
    """Let the process end, with no tidying, when `best` has been moved aside and its successor not yet moved in."""
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        if Path(target).name == "best" and any(self.parent.glob(".best-*-old")):
            os._exit(77)
        return rename(self, target)

    Path.rename = dying  # pyright: ignore[reportAttributeAccessIssue]


def test_a_death_between_the_renames_of_best_loses_neither(recipe, own_data, tmp_path):
    settings = {"optim__steps": 24, "validate_every": 8, "optim__ema": 0.9, "optim__lr": 0.05}
    folder, log = tmp_path / "runs/own", tmp_path / "log.txt"
    list(train(recipe(**settings), runs=tmp_path / "whole"))
    begin = ["train", str(tmp_path / "own.yaml"), *(f"--{k.replace('__', '.')}={v}" for k, v in settings.items())]
    assert ended(forked(begin, tmp_path, log, die_between_renames)) == 77, log.read_text()
    assert not (folder / "best").exists()
    (old,) = folder.glob(".best-*-old")
    before = (old / "model.safetensors").read_bytes()
    for name in (".config.yaml.7.part", f".{RECORD}.7.part", "checkpoints/.step-0000009.pt.7.part"):
        (folder / name).write_bytes(b"half")
    events = train(recipe(**settings), resume=True, runs=tmp_path / "runs")
    next(events)  # the checkpoint before the validation is made again
    assert weights(folder) == before
    assert leftovers(folder) == []
    list(events)
    assert_same_run(folder, tmp_path / "whole/own")


def test_a_run_killed_before_its_first_checkpoint_begins_anew(recipe, whole, tmp_path):
    folder = stopped_at(recipe(), tmp_path / "runs", 1)
    (folder / "checkpoints/step-0000001.pt").unlink()
    list(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert_same_run(folder, whole)


def test_a_process_killed_at_its_very_start_does_not_take_the_name(recipe, whole, tmp_path):
    (tmp_path / "runs/own").mkdir(parents=True)
    (tmp_path / "runs/own" / LOCK).touch()
    (tmp_path / "runs/own/.config.yaml.7.part").touch()
    list(train(recipe(), runs=tmp_path / "runs"))
    assert_same_run(tmp_path / "runs/own", whole)


def test_a_run_whose_checkpoints_were_removed_is_not_begun_anew(recipe, tmp_path):
    list(train(recipe(), runs=tmp_path / "runs"))
    for path in (tmp_path / "runs/own/checkpoints").iterdir():
        path.unlink()
    before = weights(tmp_path / "runs/own")
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        next(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert weights(tmp_path / "runs/own") == before
    assert len(story(tmp_path / "runs/own")) == 6


def test_to_resume_what_is_no_run_makes_no_folder(recipe, tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        next(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_half_a_letter_at_the_end_of_the_record(recipe, own_data, tmp_path):
    (own_data / "labels.yaml").write_text("names: [Straße, car, tree]\n", encoding="utf-8")
    list(train(recipe(), runs=tmp_path / "whole"))
    events = train(recipe(), runs=tmp_path / "runs")
    next(event for event in events if isinstance(event, Validated))
    events.close()
    record = tmp_path / "runs/own" / RECORD
    content = record.read_bytes()
    record.write_bytes(content[: content.rindex("ß".encode()) + 1])
    assert [entry["event"] for entry in read_record(record.parent)] == ["step", "step", "saved"]
    report_runs({"own": record.parent}, tmp_path / "report.html", "own", lambda phase: lambda done, total: None)
    list(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert_same_run(record.parent, tmp_path / "whole/own")


def test_lines_lost_behind_the_last_checkpoint(recipe, whole, tmp_path):
    folder = stopped_at(recipe(), tmp_path / "runs", 4)
    lines = (folder / RECORD).read_text().splitlines(keepends=True)
    (folder / RECORD).write_text("".join(lines[:2]))
    list(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert (folder / "best/model.safetensors").read_bytes() == weights(whole)
    told, expected = story(folder), story(whole)
    assert told == [expected[0], expected[1], expected[-1]]


def test_damaged_lines_are_left_out_with_a_warning(recipe, whole, tmp_path):
    folder = stopped_at(recipe(), tmp_path / "runs", 3)
    with (folder / RECORD).open("ab") as file:
        file.write(b"\0" * 40 + b"\n")
    with pytest.raises(InputError, match="line 7 is no event of a run; remove it"):
        read_record(folder)
    with pytest.warns(UserWarning, match="line 7 is no event of a run, and left out"):
        list(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert_same_run(folder, whole)


def test_a_validation_whose_line_was_lost_is_not_forgotten(recipe, tmp_path, monkeypatch):
    evaluate, scores = loop.evaluate, {2: 0.7, 4: 0.5, 6: 0.6, 8: 0.8}
    runs = tmp_path / "runs"

    class Told(Scores):
        miou = 0.0  # pyright: ignore[reportAssignmentType]

    def falling(*args, **kwargs):
        report = evaluate(*args, **kwargs)
        told = Told(report.scores.names, report.scores.confusion)
        object.__setattr__(told, "miou", scores[newest(runs / "own")["step"]])
        return replace(report, scores=told)

    monkeypatch.setattr(loop, "evaluate", falling)
    config = recipe(optim__steps=8)
    folder = stopped_at(config, runs, 3)
    lines = (folder / RECORD).read_text().splitlines(keepends=True)
    (folder / RECORD).write_text("".join(line for line in lines if json.loads(line)["event"] != "validated"))
    kept = {}
    for event in train(config, resume=True, runs=runs):
        if isinstance(event, Validated):
            kept[event.step] = json.loads((folder / "best/config.json").read_text())["scores"]["step"]
    assert kept == {4: 2, 6: 2, 8: 8}


@linux
def test_what_a_checkpoint_and_the_best_rest_on_is_synced_before(recipe, tmp_path, monkeypatch):
    synced, kept, folder = {}, [], tmp_path / "runs/own"
    fsync, replace_file, rename = os.fsync, Path.replace, Path.rename

    def noted_fsync(handle):
        fsync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        synced[path] = path.stat().st_size

    def all_synced(*paths):
        return all(synced.get(path) == path.stat().st_size for path in paths)

    def checked_replace(self, target):
        if Path(target).suffix == ".pt":
            assert all_synced(self, folder / RECORD)
            kept.append(target.name)
        return replace_file(self, target)

    def checked_rename(self, target):
        if Path(target).name == "best":
            assert all_synced(*self.iterdir(), self)
            kept.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", checked_replace)
    monkeypatch.setattr(Path, "rename", checked_rename)
    list(train(recipe(), runs=tmp_path / "runs"))
    assert kept[:2] == ["step-0000002.pt", "best"]
    assert all_synced(folder / "checkpoints")
