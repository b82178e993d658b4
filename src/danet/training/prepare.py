"""All that comes before a run's first step: its configuration as resolved, its data as checked, its network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch

from danet.config import RunConfig
from danet.data.dataset import stateless_seed
from danet.data.parallel import Progress
from danet.inference.device import Precision, choose_device, choose_precision
from danet.models.segmentation import build_model
from danet.processes import ALONE, Processes
from danet.training.cost import refuse_too_large
from danet.training.data import RunData, absolute_root, open_data, read_data
from danet.training.gates import start_attention
from danet.training.losses import CLASS_WEIGHTS, Criterion
from danet.training.norm import frozen
from danet.training.start import resolve, start_from
from danet.training.state import State
from danet.training.step import Stepper


class Ready(NamedTuple):
    """What a run's steps need, and of each class the one of the model it starts from, if it starts from one."""

    config: RunConfig
    data: RunData
    stepper: Stepper
    classes: dict[str, str | None]


def prepare(
    config: RunConfig,
    processes: Processes = ALONE,
    data: RunData | None = None,
    progress: Callable[[str], Progress] = lambda phase: lambda done, total: None,
    new: bool = True,
) -> Ready:
    """What the run that `config` describes needs before its first step, on one of its `processes`.

    new: whether weights that the run starts from are wanted; a resumed run has its own. Raises InputError for what is
    wrong.
    """
    config = absolute_root(resolve(config) if new else config)
    device = choose_device(config.device)
    precision: Precision = processes.of_main(choose_precision(config.precision, device))
    data = data or open_data(config)
    # The precision is kept, since a resumed run must not time the machine anew and come to another.
    told = {"model": data.model, "preprocess": data.preprocess, "precision": precision}
    config = config.model_copy(update=told)
    refuse_too_large(config, device, processes.count)
    torch.manual_seed(stateless_seed(config.seed, "weights"))
    initial = data.model if new else data.model.model_copy(update={"pretrained": False})
    model = build_model(initial).to(device).to(memory_format=torch.channels_last)
    if config.data.batch_size == config.optim.accumulate and not frozen(config):
        with torch.no_grad():  # some norms cannot learn from one image, and say so here
            copy.deepcopy(model)(torch.zeros(1, data.model.in_channels, *config.data.crop, device=device))
    start_attention(model, config.optim)
    classes = start_from(config.init, model, data.labels.names) if config.init and new else {}
    with processes.main_first():  # what it has counted, the others find in the cache
        counts = torch.from_numpy(read_data(config, data, progress).counts[:, : data.labels.num_classes])
    weigh, optim = CLASS_WEIGHTS.get(config.optim.class_weights), config.optim
    criterion = Criterion(
        None if weigh is None else weigh(counts).to(device),
        optim.label_smoothing,
        optim.ohem,
        optim.ohem_kept,
        optim.dice_weight,
        optim.lovasz_weight,
    )
    state = State.of(model, config, device)
    return Ready(config, data, Stepper(config, state, criterion, device, precision, processes), classes)
