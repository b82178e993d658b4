"""A run rehearsed: all is built and read, two steps are taken, nothing is written; and what the run would take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from danet.config import RunConfig
from danet.data.parallel import Progress
from danet.inference.segmenter import Segmenter
from danet.models.attention import gates
from danet.training.cost import Cost, Option, memory_explained, model_cost, options
from danet.training.data import batches
from danet.training.prepare import prepare
from danet.training.provenance import peak_memory, reset_peak_memory, resident_memory


class Rehearsal(NamedTuple):
    """What a run takes: `cost` of a forward of one crop; seconds of a step and of a whole validation, and of all;
    `memory` in bytes at the step's peak and before it, as measured (None: unknown); `options` of less, as computed.
    """

    config: RunConfig
    losses: dict[str, float]
    gates: dict[str, float]
    cost: Cost
    step_seconds: float
    validation_seconds: float
    seconds: float
    memory: int | None
    memory_before: int | None
    options: list[Option]


def rehearse(config: RunConfig, progress: Callable[[str], Progress]) -> Rehearsal:
    """Rehearse the run that `config` describes, on one process.

    Raises InputError for whatever would stop it, running out of memory among it.
    """
    config, data, stepper, _ = prepare(config, progress=progress)
    feed = batches(config, data.train, 0)
    show = progress("rehearse")
    before = resident_memory(stepper.device)
    reset_peak_memory(stepper.device)
    for number in range(2):  # the first also warms up
        show(number, 3)
        images, masks, names = next(feed)
        start = time.perf_counter()
        with memory_explained(config):
            losses, _ = stepper.step(number, images, masks, names)
        took = time.perf_counter() - start
    memory = peak_memory(stepper.device)
    show(2, 3)
    segmenter = Segmenter(stepper.state.kept, data.labels, config.preprocess, config.device, stepper.precision)
    sample = data.val[0].pixels
    start = time.perf_counter()
    segmenter.predict(sample)
    validation = (time.perf_counter() - start) * len(data.val)
    show(3, 3)
    validations = -(-config.optim.steps // config.validate_every)
    cost = model_cost(data.model, config.data.crop)  # pyright: ignore[reportArgumentType] (pydantic's have a hash)
    return Rehearsal(
        config,
        losses,
        gates(stepper.state.model),
        cost,
        took,
        validation,
        config.optim.steps * took + validations * validation,
        memory,
        before,
        options(config, progress("compute what takes less memory")),
    )
