"""What the attention page shows of an encoding: colours for features, other label maps, and distinct channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from danet.ops.position import position_attention
from danet.ops.taken import position_attention_taken
from danet.viz.answer import AttentionView, ChannelMaps, LabelMap, PositionView, bytes_of, page_size

if TYPE_CHECKING:
    from danet.inference.encoding import Encoding

GATES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the trained gate, for which the labels are shown."""
TAKEN = 0.1
"""The share of its keys that every place loses, to see whether the prediction hangs on them."""
CHANNELS = 12
ALIKE = 0.7
"""The correlation from which on two channels show the same."""


def view(encoding: Encoding, name: str) -> AttentionView:
    """The image `name`, its prediction, and what its attention follows from."""
    prediction, traces = encoding.prediction, encoding.traces
    height, width = prediction.labels.shape
    size = page_size(height, width, traces["position"].grid if "position" in traces else (1, 1))
    own = label_map(nearest(prediction.probabilities, size))
    return AttentionView(
        name=name,
        image=prediction.image,
        labels=own.labels,
        confidence=own.confidence,
        shares=prediction.shares,
        space=prediction.space,
        model=encoding.facts,
        position=position_view(encoding, own) if "position" in traces else None,
        channel=channel_maps(encoding) if "channel" in traces else None,
    )


def nearest(maps: Float[Tensor, "k H W"], size: tuple[int, int]) -> Float[Tensor, "k h w"]:
    """Maps at `size`, each pixel of which has the value of the pixel nearest to it."""
    rows, columns = (
        (2 * torch.arange(side, device=maps.device) + 1) * whole // (2 * side)
        for side, whole in zip(size, maps.shape[1:], strict=True)
    )
    return maps[:, rows[:, None], columns]


def label_map(probabilities: Float[Tensor, "k h w"]) -> LabelMap:
    """The most probable class of every pixel."""
    confidence, labels = probabilities.float().max(0)
    return LabelMap(labels.byte().cpu().numpy(), bytes_of(confidence.cpu().numpy()))


def position_view(encoding: Encoding, own: LabelMap) -> PositionView:
    """Position attention, and what is predicted `own`, with other gates, and without the most attended keys."""
    trace = encoding.traces["position"]
    query, key, value, logsumexp = (tensor[0] for tensor in encoding.position)
    features, values = components(trace.features[0].flatten(1).mT, value)
    mixed = position_attention(query.float(), key.float(), torch.from_numpy(values).to(query.device))
    others = [gate for gate in GATES if gate != 1]

    def gathered() -> Iterator[Float[Tensor, "1 n c"]]:
        whole = position_attention(query, key, value)
        for factor in others:
            yield factor * whole[None]
        for one in position_attention_taken(query, key, value, TAKEN):
            yield one[None]

    height, width = own.labels.shape
    *gated, taken, control = encoding.again(gathered(), (height, width))
    labels = dict(zip(others, gated, strict=True)) | {1: own}
    return PositionView(
        gate=trace.gate,
        share=trace.share.item(),
        grid=trace.grid,
        span=encoding.span or trace.grid,
        similarity=encoding.similarity() if len(query) > 1 else 1.0,
        query=query.float().cpu().numpy(),
        key=key.float().cpu().numpy(),
        logsumexp=logsumexp.float().cpu().numpy(),
        pool=None if trace.pool is None else trace.pool.float().cpu().numpy(),
        features=features,
        value=values,
        gathered=mixed.cpu().numpy(),
        gates=GATES,
        gate_labels=np.stack([labels[gate].labels for gate in GATES]),
        taken_share=TAKEN,
        taken=taken,
        control=control,
    )


def components(
    features: Float[Tensor, "n c"], value: Float[Tensor, "m c"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "m 3"]]:
    """Features and values by the features' first three principal components, for colours of 0 to 1.

    1 % of the features lie below 0 and 1 % above 1 in each component. Values have the same directions and units, and
    their mean at 0.5: they may lie elsewhere than the features, and as rows of S sum to 1, Σ S·value is still what is
    gathered, moved by as much.
    """
    points, values = (tensor.cpu().double() for tensor in (features, value))
    points = points - points.mean(0)
    directions = torch.linalg.eigh(points.mT @ points).eigenvectors[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary: its largest part is positive.
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    colours = points @ directions
    low, high = colours.quantile(0.01, dim=0), colours.quantile(0.99, dim=0)
    extent = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    gathered = (values - values.mean(0)) @ directions / extent + 0.5
    return ((colours - low) / extent).float().numpy(), gathered.float().numpy()


def channel_maps(encoding: Encoding) -> ChannelMaps:
    """Distinct channels, before and after attention, with the five that each draws on most."""
    trace = encoding.traces["channel"]
    features = trace.features[0].float().flatten(1)
    indices = distinct(features)
    views = [encoding.channels(index) for index in indices]
    key = features if trace.key is None else trace.key[0].float()
    strongest = [np.argsort(-one.weights, kind="stable")[:5] for one in views]
    return ChannelMaps(
        gate=trace.gate,
        share=trace.share.item(),
        rule=str(trace.rule),
        total=len(features),
        indices=indices,
        draws_on=[
            [(int(index), float(one.weights[index])) for index in most]
            for one, most in zip(views, strongest, strict=True)
        ],
        energy=(features[indices].cpu().double() @ key.cpu().double().mT).float().numpy(),
        before=np.stack([one.before for one in views]),
        after=np.stack([one.after for one in views]),
    )


def distinct(channels: Float[Tensor, "c n"]) -> list[int]:
    """At most twelve channels, those that vary most first, none of which correlates with another by 0.7 or more.

    The one that varies most is there even where none varies.
    """
    centred = channels.cpu().double()
    centred = centred - centred.mean(1, keepdim=True)
    norms = centred.norm(dim=1)
    unit = centred / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    first, *others = norms.argsort(descending=True, stable=True).tolist()
    chosen = [first]
    for index in others:
        if len(chosen) < CHANNELS and norms[index] > 0 and (unit[chosen] @ unit[index]).abs().max() < ALIKE:
            chosen.append(index)
    return chosen
