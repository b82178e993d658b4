"""A published training checkpoint as plain tensors: read without running anything that is in it.

The files are pickles, which can carry code. `torch.load(weights_only=True)` builds tensors and plain containers alone;
to these come the harmless classes of `ALLOWED`, which published checkpoints carry beside their weights.
"""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danet.errors import InputError
from danet.weights.exported import is_exported

_NUMPY_KINDS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "U")
_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in _NUMPY_KINDS),
    *((np._core.multiarray.scalar, f"{core}.scalar") for core in _CORES),  # type: ignore[attr-defined]
    *((np._core.multiarray._reconstruct, f"{core}._reconstruct") for core in _CORES),  # type: ignore[attr-defined]
]
"""Namespaces, and NumPy's numbers and arrays under the names of NumPy 1 and 2; none of them runs what it is given."""

_WEIGHTS = ("state_dict", "model")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = "give the whole file, as it was published"
_MAGIC = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
"""What torch.save's old format begins with, pickled; the new one is a zip archive."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights, floating ones in float32, under their own names without `module.`; what lies beside them;
    and what was changed on reading."""

    weights: dict[str, Tensor]
    beside: dict[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of `torch.save`, old format or new.

    Raises InputError for what is no such file, is cut short or damaged, holds no weights or ones that are not finite in
    float32, and for a file that needs classes beyond `ALLOWED`, of which nothing is run.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds {type(content).__name__}; a checkpoint is a mapping of names to tensors.")
    key = next((key for key in _WEIGHTS if isinstance(content.get(key), Mapping)), None)
    weights = content[key] if key else content
    if not weights or not any(isinstance(value, Tensor) for value in weights.values()):
        rest = ", ".join(map(str, list(content)[:6])) or "nothing"
        raise InputError(f"{path} holds no weights but {rest}; give the checkpoint that has a state_dict.")
    weights = {str(name): value for name, value in weights.items()}
    while all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    taken: set[int] = set()
    converted = {name: _alone(_plain(path, name, value), taken) for name, value in weights.items()}
    kinds = {str(value.dtype).removeprefix("torch.") for value in weights.values() if value.is_floating_point()}
    changes = tuple(f"{kind} weights became float32" for kind in sorted(kinds - {"float32"}))
    return Checkpoint(converted, {name: content[name] for name in content if name != key} if key else {}, changes)


def _load(path: Path) -> Any:
    """What torch.load gives, with every reason why it cannot as one line."""
    _check_kind(path)
    archive = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED):
            warnings.simplefilter("ignore")
            if archive:
                _check_sums(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        if needed := re.search(r"GLOBAL ([\w.]+)|got <class '([\w.]+)'>", str(error)):
            raise InputError(
                f"{path} needs the Python class {needed[1] or needed[2]}, which danet does not build, because a file "
                "may run code that way; nothing of it was run. If you trust it, save its state_dict alone, where that "
                "class is at home."
            ) from None
        raise InputError(f"{path} is no checkpoint of PyTorch, or is cut short; {_WHOLE}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except InputError:
        raise
    except Exception:  # a pickle's bytes are a program: damage ends in any error whatsoever
        raise InputError(f"{path} is no checkpoint of PyTorch, or is cut short; {_WHOLE}.") from None


def _check_kind(path: Path) -> None:
    """Refuse what is well known and no checkpoint, by its first bytes."""
    if is_exported(path) or (path.suffix == ".onnx" and path.is_file()):
        raise InputError(f"{path} is an exported model; give the checkpoint that it came from.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the checkpoint, a file such as {path / 'model.pth'}.")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a checkpoint's file or URL.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not head:
        raise InputError(f"{path} is empty; {_WHOLE}.")
    if path.suffix == ".safetensors" and path.with_name("config.json").is_file():
        raise InputError(f"{path} is of a bundle, which needs no conversion; give its folder {path.parent} to --model.")
    if head.lstrip()[:1] == b"<":
        raise InputError(
            f"{path} is a web page, not a checkpoint: the site showed something instead of the file; "
            "download it in a browser."
        )
    if head[257:262] == b"ustar":
        raise InputError(
            f"{path} is a real tar archive, which PyTorch's .pth.tar files are not; unpack it and give what is inside."
        )
    if head[:4] == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        raise InputError(f"{path} is cut short: the end of its archive is missing; {_WHOLE}.")
    if _MAGIC not in head and not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no checkpoint of torch.save, and nothing of it was run; {_WHOLE}.")


def _check_sums(path: Path) -> None:
    """Refuse an archive whose contents do not have the checksums that it states; torch.load does not look at them."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged: {damaged} in it has another checksum than it states; {_WHOLE}.")


def _plain(path: Path, name: str, value: Any) -> Tensor:
    """A tensor that a network can hold: finite, in float32 or int64."""
    if not isinstance(value, Tensor):
        raise InputError(f"{path}: {name} holds {type(value).__name__} among the weights; only tensors can be used.")
    if value.layout != torch.strided or value.dtype not in (*_FLOATS, torch.int64):
        kind = f"{value.layout}, {value.dtype}".replace("torch.", "")
        raise InputError(f"{path}: {name} is a {kind} tensor; give the checkpoint with dense floating-point weights.")
    value = value.detach()
    if not value.is_floating_point():
        return value
    single = value.float()
    if not single.isfinite().all():
        fault = "too large for float32" if value.isfinite().all() else "not finite (NaN or infinity)"
        raise InputError(f"{path}: {name} holds values that are {fault}; take another checkpoint.")
    return single


def _alone(tensor: Tensor, taken: set[int]) -> Tensor:
    """The tensor in memory of its own: ones that share it, or are views of a larger one, cannot be trained or saved."""
    storage = tensor.untyped_storage()
    shared = storage.data_ptr() in taken or storage.nbytes() != tensor.nbytes
    taken.add(storage.data_ptr())
    return tensor.clone(memory_format=torch.contiguous_format) if shared else tensor
