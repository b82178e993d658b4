"""TensorBoard's files, read back with TensorBoard's own reader."""

import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from danet.errors import InputError
from danet.training.board import write_board


def step(number: int, **more) -> dict:
    losses = {"fused": 2 / number, "position": 1 / number}
    seconds = 0.5 * number
    return {
        "event": "step",
        "step": number,
        "loss": 3 / number,
        "losses": losses,
        "lr": 1e-3,
        "seconds": seconds,
    } | more


def validated(number: int, **more) -> dict:
    scores = {"miou": 0.25, "pixel_accuracy": 0.5, "mean_accuracy": 0.375, "context": None, "majority": None}
    iou = {"road": 0.125 * number, "car": 0.0, "bus / tram": None}
    return {"event": "validated", "step": number, **scores, "iou": iou, "seconds": 0.5 * number + 0.1} | more


def saved(number: int) -> dict:
    return {"event": "saved", "step": number, "path": "best", "seconds": 0.5 * number + 0.2}


@pytest.fixture
def record(tmp_path):
    """Writes RUN/metrics.jsonl; returns RUN."""

    def write(*records, end=""):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records) + end)
        return folder

    return write


def points(path) -> dict[str, dict[int, float]]:
    """Tag → step → value; fails where a step is there twice."""
    reader = EventAccumulator(str(path), size_guidance={"scalars": 0})
    reader.Reload()
    found = {}
    for tag in reader.Tags()["scalars"]:
        events = reader.Scalars(tag)
        assert len({event.step for event in events}) == len(events), tag
        found[tag] = {event.step: event.value for event in events}
    return found


def test_every_figure_of_the_record_is_there(record):
    more = {"gates": {"position": 0.25, "channel": -0.5}, "images_per_second": 6.5, "memory": 2_500_000_000}
    shares = {"shares": {"position": 0.75}, "context": 0.625}
    folder = record(step(1, **more), step(2), validated(2, **shares), saved(2), end='{"event": "st')
    assert write_board(folder) == folder / "tensorboard"
    expected = {
        "loss/total": {1: 3, 2: 1.5},
        "loss/fused": {1: 2, 2: 1},
        "loss/position": {1: 1, 2: 0.5},
        "gate/position": {1: 0.25},
        "gate/channel": {1: -0.5},
        "training/learning rate": {1: pytest.approx(1e-3), 2: pytest.approx(1e-3)},
        "training/images per second": {1: 6.5},
        "training/memory in GB": {1: 2.5},
        "validation/mIoU": {2: 0.25},
        "validation/pixel accuracy": {2: 0.5},
        "validation/mean accuracy": {2: 0.375},
        "validation/context": {2: 0.625},
        "IoU/road": {2: 0.25},
        "IoU/car": {2: 0},
        "share/position": {2: 0.75},
    }
    assert points(folder / "tensorboard") == expected


def test_memory_that_is_unknown_is_left_out(record):
    folder = record(step(1, images_per_second=6.5, memory=None))
    assert "training/memory in GB" not in points(write_board(folder))


def test_again_brings_up_to_date_and_doubles_nothing(record):
    first = write_board(record(step(1), step(2)))
    assert write_board(record(step(1), step(2), step(3))) == first
    assert points(first)["loss/total"] == {1: 3, 2: 1.5, 3: 1}
    assert len(list(first.iterdir())) == 1
    assert sorted(path.name for path in first.parent.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_what_a_resumed_run_took_back_is_gone(record):
    folder = record(*(step(number) for number in range(1, 6)), validated(5))
    write_board(folder)
    record(step(1), step(2), step(3, loss=7))
    found = points(write_board(folder))
    assert found["loss/total"] == {1: 3, 2: 1.5, 3: 7}
    assert "validation/mIoU" not in found


def test_times_are_those_of_training(record):
    reader = EventAccumulator(str(write_board(record(step(1), step(2), validated(2), step(8)))))
    reader.Reload()
    times = [event.wall_time for event in reader.Scalars("loss/total")]
    assert [time - times[0] for time in times] == pytest.approx([0, 0.5, 3.5])
    assert reader.Scalars("IoU/road")[0].wall_time - times[0] == pytest.approx(0.6)


def test_progress_is_told(record):
    told = []
    write_board(record(step(1), step(2), saved(2)), lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_without_tensorboard_it_says_how_to_get_it(record, monkeypatch):
    folder = record(step(1))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"need tensorboard: pip install 'danet\[train\]'"):
        write_board(folder)
    assert not (folder / "tensorboard").exists()


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no run: there is no metrics\.jsonl"):
        write_board(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there(record, monkeypatch):
    folder = record(step(1))
    before = points(write_board(folder))
    record(step(1), step(2))

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_board(folder, stop)
    assert points(folder / "tensorboard") == before
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "tensorboard"]
