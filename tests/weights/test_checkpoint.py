"""Foreign files: weights are read, whatever harmless things lie beside them; nothing in a file is ever run."""

import argparse
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from danet.errors import InputError
from danet.weights.checkpoint import read_checkpoint

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "norm.num_batches_tracked": torch.tensor(7)}


@pytest.mark.parametrize("archive", [True, False])
def test_research_checkpoints_of_both_formats(archive, tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    content = {
        "epoch": 240,
        "state_dict": {f"module.{name}": value for name, value in WEIGHTS.items()},
        "optimizer": optimizer.state_dict(),
        "best_pred": np.float64(0.7993),
        "iou": np.array([0.5, 0.75], np.float32),
        "args": argparse.Namespace(backbone="resnet101", lr=np.float32(0.003)),
    }
    torch.save(content, tmp_path / "DANet101.pth.tar", _use_new_zipfile_serialization=archive)
    found = read_checkpoint(tmp_path / "DANet101.pth.tar")
    assert found.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(found.weights[name], value) for name, value in WEIGHTS.items())
    assert found.beside["best_pred"] == 0.7993
    assert found.beside["args"].backbone == "resnet101"
    assert found.changes == ()


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model": weights}])
def test_other_wrappings(wrap, tmp_path):
    torch.save(wrap(WEIGHTS), tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").weights.keys() == WEIGHTS.keys()


def test_numbers_of_numpy_1_are_read(tmp_path):
    torch.save({"state_dict": WEIGHTS, "best_pred": np.float64(0.5)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy._core" not in (tmp_path / "a.pth").read_bytes()
    assert read_checkpoint(tmp_path / "a.pth").beside["best_pred"] == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    torch.save({"a": torch.tensor([0.5, 3.0], dtype=dtype), "b": torch.zeros(1)}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert {value.dtype for value in found.weights.values()} == {torch.float32}
    assert found.weights["a"].tolist() == [0.5, 3.0]
    assert found.changes == (f"{str(dtype).removeprefix('torch.')} weights became float32",)


def test_tensors_that_share_memory_get_their_own(tmp_path):
    flat, one = torch.arange(10.0), torch.ones(3)
    state = {"a": flat[:4], "b": flat[4:], "c": one, "d": one, "e": torch.tensor(2.0).expand(2, 2)}
    torch.save(state, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth").weights
    assert all(torch.equal(found[name], value) for name, value in state.items())
    save_file(found, tmp_path / "a.safetensors")


class Code:
    """Unpickled by Python's own way, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Unknown:
    pass


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_file_is_named_and_never_run(archive, tmp_path):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    content = {"state_dict": WEIGHTS, "hook": Code(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(InputError, match=r"needs the Python class (posix|nt)\.mkdir.*nothing of it was run"):
        read_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file was harmless, so this test shows nothing"


def test_an_unknown_class_is_named(tmp_path):
    torch.save({"state_dict": WEIGHTS, "config": Unknown()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"needs the Python class tests\.weights\.test_checkpoint\.Unknown"):
        read_checkpoint(tmp_path / "a.pth")


def cut(path, archive, share):
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=archive)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip(path, share):
    torch.save({"a": torch.zeros(9000)}, path)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)


def tar(path):
    torch.save(WEIGHTS, path.with_name("inside.pth"))
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_name("inside.pth"))


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


def save(content):
    return lambda path: torch.save(content, path)


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("\n<!DOCTYPE html><html><title>Virus scan warning</title>"), "is a web page"),
        (lambda path: path.write_text("version https://git-lfs.example/spec/v1\n" * 9), "is no checkpoint"),
        (lambda path: path.write_bytes(bytes(2000)), "is no checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "is no checkpoint of torch.save, and nothing of it"),
        (lambda path: path.write_bytes(pickle.dumps(Code(path.with_name("trace")))), "is no checkpoint of torch.save"),
        (lambda path: flip(path, 0.5), "is damaged: a.pth/data/0 in it has another checksum"),
        (lambda path: cut(path, True, 0.5), "is cut short"),
        (lambda path: cut(path, False, 0.5), "is cut short"),
        (lambda path: cut(path, False, 0.02), "is cut short"),
        (tar, "is a real tar archive"),
        (other_zip, "is no checkpoint"),
        (save([1, 2]), "holds list"),
        (save({}), "holds no weights but nothing"),
        (save(OPTIMIZER), "holds no weights but state, param_groups"),
        (save({"optimizer": OPTIMIZER, "epoch": 3}), "holds no weights but optimizer, epoch"),
        (save({"state_dict": {"a": torch.zeros(1), "b": 3}}), "b holds int among the weights"),
        (save({"a": torch.tensor([1.0, float("nan")])}), "a holds values that are not finite"),
        (save({"a": torch.tensor([1.0, float("inf")]).half()}), "a holds values that are not finite"),
        (save({"a": torch.tensor([1.0, 1e300], dtype=torch.float64)}), "a holds values that are too large for float32"),
        (save({"a": torch.zeros(2, dtype=torch.uint8)}), "a is a strided, uint8 tensor"),
        (save({"a": torch.zeros(2, 2).to_sparse()}), "a is a sparse_coo, float32 tensor"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(write, words, tmp_path):
    path = tmp_path / "a.pth.tar"
    write(path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
