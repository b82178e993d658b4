"""Starting from another model: its network and weights, and of its classifiers the rows of classes of the same name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from danet.config import Channels, ModelConfig, Preprocess, RunConfig, validate
from danet.weights.bundle import Bundle, load_bundle
from danet.weights.zoo import find_bundle

SLOWER = 0.1
"""A backbone that has learned already learns on at this multiple of the heads' rate."""
KEPT = ("dropout",)
"""What a run decides itself of the network that it starts from."""


def resolve(config: RunConfig) -> RunConfig:
    """`config` with what follows from its `init`: the model's network, channels and normalisation, and slow rates.

    The recipe's rate becomes that of the heads, and the backbone's is a tenth of it; a recipe that sets
    `optim.head_factor` knows better. Raises InputError as `find_bundle` and `load_bundle` do.
    """
    if config.init is None:
        return config
    bundle = load_bundle(find_bundle(config.init))
    by_data = {"num_classes", "in_channels", "pretrained"}
    network = bundle.model_config.model_dump(exclude={*by_data, *KEPT}) | config.model.model_dump(include=set(KEPT))
    own = config.preprocess.model_dump(include=config.preprocess.model_fields_set)
    channels = bundle.preprocess.model_dump(include=set(Channels.model_fields))
    optim = config.optim
    if "head_factor" not in optim.model_fields_set:
        slow = {"lr": SLOWER * optim.lr, "end_lr": SLOWER * optim.end_lr, "head_factor": 1 / SLOWER}
        optim = optim.model_copy(update=slow)
    local = str(Path(config.init).resolve()) if Path(config.init).exists() else config.init
    return config.model_copy(
        update={
            "init": local,
            "model": validate(ModelConfig, network, config.init),
            "preprocess": validate(Preprocess, channels | own, "preprocess"),
            "optim": optim,
        }
    )


def start_from(name: str, model: nn.Module, classes: Sequence[str]) -> dict[str, str | None]:
    """Copy the weights of the model `name` into `model`, which has its network; of the classifiers, class by class.

    Returns for each of `classes` the class of `name` whose rows it was given; None: it starts afresh.
    """
    bundle = load_bundle(find_bundle(name))
    taken = matches(classes, bundle.labels.names)
    rows = [(index, bundle.labels.names.index(source)) for index, source in enumerate(taken.values()) if source]
    copy_weights(model, bundle, rows)
    return taken


def matches(classes: Sequence[str], known: Sequence[str]) -> dict[str, str | None]:
    """For each of `classes` that of the `known` ones which has the same name, whatever its case, and _ or - in it."""

    def plain(name: str) -> str:
        return re.sub(r"[\s_-]+", " ", name).strip().casefold()

    named = {plain(name): name for name in reversed(known)}
    return {name: named.get(plain(name)) for name in classes}


@torch.no_grad()
def copy_weights(model: nn.Module, bundle: Bundle, rows: Sequence[tuple[int, int]]) -> None:
    """All tensors of the bundle's model into `model`, of classifiers the `rows` (to, from) alone."""
    source = bundle.model.state_dict()
    to, origin = (torch.tensor(part, dtype=torch.long) for part in (zip(*rows, strict=True) if rows else ((), ())))
    for name, tensor in model.state_dict().items():
        if any(part.endswith("classifier") for part in name.split(".")):
            tensor[to.to(tensor.device)] = source[name][origin].to(tensor.device)
        else:
            tensor.copy_(source[name])
