"""What a network and a step of its training take: parameters, operations, memory. Found out without taking it.

Tensors without content go through the network (torch's FakeTensorMode), and what they would be is added up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from danet.config import SMALLEST_SIDE, ModelConfig, RunConfig
from danet.errors import InputError
from danet.inference.device import free_memory
from danet.models.segmentation import build_model
from danet.training.losses import Criterion
from danet.training.step import Losses, learn

MULTIPLE = 32
"""Crops that are offered have sides of so many pixels, times a whole number."""
_BYTES_A_PIXEL = 2_000
"""No network of ours takes less for a pixel of a training step; what cannot matter by it is not looked into."""
_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|allocate memory|bad_alloc|could not create a memory", re.I
)


class Cost(NamedTuple):
    """What a network takes: its parameters, and the floating-point operations of one image's forward, in 10⁹.

    A multiplication and an addition count as two.
    """

    parameters: int
    gflops: float


@cache
def model_cost(model: ModelConfig, size: tuple[int, int]) -> Cost:
    """The cost of `model` on an image of `size`."""
    formulas: dict[Any, Any] = {torch.ops.danet.position_attention: _attention}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # oneDNN's own product: see danet.ops.product
        formulas[torch.ops.mkldnn._linear_pointwise] = lambda rows, columns, *_, **__: _product(rows, columns)
    with FakeTensorMode():
        network = build_model(model.model_copy(update={"pretrained": False})).eval()
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            network(torch.zeros(1, model.in_channels, *size))
    return Cost(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 1e9)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Operations of Q Kᵀ and S V, by the shapes."""
    (batch, places, width), (_, keys, channels) = query, value
    return 2 * batch * places * keys * (width + channels)


def _product(rows: Any, columns: Any) -> int:
    return 2 * rows[0] * rows[1] * columns[0]


def step_memory(config: RunConfig) -> int:
    """Bytes of all tensors at the peak of a step of `config`, a resolved one, on one process.

    It is what torch's allocator is asked for. A real step takes more for the workspaces of its operators (on a CPU two
    thirds of a gigabyte beside two, in a test), and the process has its libraries and data besides.
    """
    precision: Any = config.precision
    count = config.data.batch_size // config.optim.accumulate
    with FakeTensorMode(allow_non_fake_inputs=True), _Peak() as peak:
        model = build_model(config.model.model_copy(update={"pretrained": False}))
        learn(model, config)
        losses = Losses(model, config, Criterion(), precision)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if config.optim.accumulate > 1:
            for parameter in learning:
                parameter.grad = torch.zeros_like(parameter)
        peak.restart()  # some networks are built whole, and cut
        images = torch.zeros(count, config.model.in_channels, *config.data.crop)
        masks = torch.zeros(count, *config.data.crop, dtype=torch.int64)
        torch.stack(list(losses(images, masks, torch.ones(2)).values())).sum().backward()
        copies = {"sgd": 1, "adamw": 2}[config.optim.optimizer]  # that the optimizer keeps of what learns
        beside = copies * sum(parameter.nbytes for parameter in learning)
        if config.optim.ema:
            beside += sum(tensor.nbytes for tensor in model.state_dict().values())
    return peak.bytes + beside


class Option(NamedTuple):
    """Another way to take the same step: the fields to set, and the bytes that it takes then."""

    fields: dict[str, Any]
    memory: int

    @property
    def words(self) -> str:
        """As a person types it."""
        values = {name: f"'{list(v)}'" if isinstance(v, tuple) else str(v).lower() for name, v in self.fields.items()}
        return " ".join(f"--{name} {value}" for name, value in values.items())


def options(config: RunConfig, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Option]:
    """Ways to take a step of `config` with less memory, the first the step as it is; each loses less than the next.

    The first ones compute the same: checkpointing, and a batch in parts (but for norms that learn from a part alone). A
    smaller crop sees less.
    """
    batch = config.data.batch_size
    parts = [count for count in range(config.optim.accumulate + 1, batch + 1) if batch % count == 0]
    chosen = dict.fromkeys([*parts[:1], *parts[-2:-1]])  # parts of one image are few for norms
    smaller = tuple(max(SMALLEST_SIDE, round(3 / 4 * side / MULTIPLE) * MULTIPLE) for side in config.data.crop)
    ways: list[dict[str, Any]] = [{}]
    if not config.checkpointing:
        ways.append({"checkpointing": True})
    ways += [{"optim.accumulate": count} for count in chosen]
    if not config.checkpointing:
        ways += [{"checkpointing": True, "optim.accumulate": count} for count in chosen]
    ways.append({"data.crop": smaller})
    found = []
    for number, fields in enumerate(ways, start=1):
        found.append(Option(fields, step_memory(_with(config, fields))))
        progress(number, len(ways))
    return found


def refuse_too_large(config: RunConfig, device: torch.device, processes: int = 1) -> None:
    """Raises InputError where a step, shared by `processes`, will not fit the memory that is free: on a CPU the system
    would kill the process without a word.
    """
    config = _with(config, {"data.batch_size": max(config.data.batch_size // processes, config.optim.accumulate)})
    pixels = config.data.batch_size // config.optim.accumulate * config.data.crop[0] * config.data.crop[1]
    free = free_memory(device)
    if free is not None and pixels * _BYTES_A_PIXEL > free / 8 and (needed := step_memory(config)) > free:
        raise InputError(f"A step takes {_gigabytes(needed)}, and {_gigabytes(free)} are free. {advice(config)}")


@contextmanager
def memory_explained(config: RunConfig) -> Iterator[None]:
    """Running out of memory within ends in an InputError that says what takes less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        reason = " ".join(str(error).split())[:100]
    else:
        return
    raise InputError(f"The step ran out of memory ({reason}). {advice(config)}") from None


def advice(config: RunConfig) -> str:
    """What would take less than a step of `config`, in a line."""
    whole, *others = options(config)
    less = [f"{one.words} ({_gigabytes(one.memory)})" for one in others if one.memory < whole.memory]
    return f"As it is it takes {_gigabytes(whole.memory)}; less: {', '.join(less) or 'a smaller network'}."


def _with(config: RunConfig, fields: dict[str, Any]) -> RunConfig:
    for name, value in fields.items():
        section, _, field = name.rpartition(".")
        if section:
            value = getattr(config, section).model_copy(update={field: value})
        config = config.model_copy(update={section or field: value})
    return config


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


class _Peak(TorchDispatchMode):
    """Adds up the tensors that live while operators run within it; `bytes` are the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._now = 0
        # Whether a storage is gone is asked of torch: Python's own weak references to fake ones crash its collector.
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}

    def restart(self) -> None:
        """Forget the most so far."""
        self._sweep()
        self.bytes = self._now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, found)
        return found

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        known = self._living.get(storage._cdata)
        if known is None or known[0].expired():
            self._now += storage.nbytes() - (known[1] if known else 0)
            self._living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            if self._now > self.bytes:
                self._sweep()
                self.bytes = max(self.bytes, self._now)
        return tensor

    def _sweep(self) -> None:
        """Take out what is gone."""
        for key in [key for key, (storage, _) in self._living.items() if storage.expired()]:
            self._now -= self._living.pop(key)[1]
