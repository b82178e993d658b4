"""What the attention page asks of one image, as named tensors, from which page/worker.js makes an answer.

Names are those of danet.viz.answer's tensors where these are the same; the rest is what the worker still has to sum up.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from danet.export.onnx import FromFileValues
from danet.inference.explanation import GATES
from danet.models.attention import BranchTrace
from danet.models.segmentation import SegmentationModel
from danet.ops.channel import channel_attention
from danet.ops.position import position_attention

Named = dict[str, Tensor]


class Explained(FromFileValues):
    """File values of one image (1×C×H×W) to the tensors of `explain`, in its order."""

    def forward(self, images: Float32[Tensor, "1 c h w"]) -> tuple[Tensor, ...]:
        return tuple(explain(self.model, (images - self.offset) / self.spread).values())


def explain(model: SegmentationModel, images: Float32[Tensor, "1 c h w"]) -> Named:
    """Logits, labels, and what the attention of the branches follows from that the model has; maps at the image's size.

    `images` are normalised.
    """
    output, traces = model.trace(images)
    found = {"logits": output.logits, **label_map("", output.logits)}
    if "position" in traces:
        found |= position(model, traces, found["labels"])
    if "channel" in traces:
        found |= channel(traces["channel"])
    return found


def position(model: SegmentationModel, traces: dict[str, BranchTrace], labels: UInt8[Tensor, "h w"]) -> Named:
    """As danet.inference.explanation.position_view, with features and values as they are."""
    trace = traces["position"]
    assert trace.query is not None
    assert trace.key is not None
    assert trace.value is not None
    assert trace.logsumexp is not None
    query, key, value, logsumexp = trace.query[0], trace.key[0], trace.value[0], trace.logsumexp[0]
    whole, others = position_attention(query, key, value), [gate for gate in GATES if gate != 1]
    changed = [*(gate * whole for gate in others), *without_tenths(query, key, value)]
    *gated, taken, control = model.again(traces, [one[None] for one in changed], labels.shape)
    by_gate = {1.0: labels} | {gate: label_map("", one)["labels"] for gate, one in zip(others, gated, strict=True)}
    features, middle = trace.features[0], key.mean(0)  # danet.viz.answer, too, centres keys
    return {
        **halves("query", query),
        **halves("key", key - middle),
        "logsumexp": logsumexp - query @ middle,
        "gate_labels": torch.stack([by_gate[gate] for gate in GATES]),
        **label_map("taken_", taken),
        **label_map("control_", control),
        "position_features": features,
        "position_gram": gram(features.flatten(1)),
        "value": value,
        "gathered": whole,
        "position_share": trace.share,
        **({} if trace.pool is None else {"pool": trace.pool}),
    }


def channel(trace: BranchTrace) -> Named:
    """Features before attention and what they gather, all energies, and how channels vary together."""
    assert trace.rule is not None
    features = trace.features[0].flatten(1)
    key = features if trace.key is None else trace.key[0]
    return {
        "channel_features": trace.features[0],
        "channel_gathered": channel_attention(features, key, key, trace.rule),
        "channel_energy": features @ key.mT,
        "channel_gram": gram(features),
        "channel_share": trace.share,
    }


def without_tenths(
    query: Float[Tensor, "n d"], key: Float[Tensor, "m d"], value: Float[Tensor, "m c"]
) -> list[Float[Tensor, "n c"]]:
    """What each query gathers without the tenth of its keys that it attends to most, and without as many others.

    As danet.ops.taken.position_attention_taken, in operators of ONNX and with the whole map at once; the others are
    drawn by a sine of the two places' numbers.
    """
    scores, keys = query @ key.mT, key.shape[0]
    tenth = (keys + 4 + (keys // 10) % 2) // 10  # a half goes to the even neighbour, as in Python
    count = torch.sym_min(torch.sym_max(1, tenth), keys // 2)
    taken = scores.topk(count, sorted=False).indices
    row, column = torch.arange(query.shape[0])[:, None], torch.arange(keys)
    drawn = torch.sin(row * 12.9898 + column * 78.233) * 43758.5453
    drawn = (drawn - drawn.floor()).scatter(1, taken, -1.0)
    removed = taken, drawn.topk(count, sorted=False).indices
    return [scores.scatter(1, one, -torch.inf).softmax(-1) @ value for one in removed]


def label_map(name: str, logits: Float[Tensor, "1 k h w"]) -> Named:
    """The most probable class of every pixel, and its probability as 0 to 255."""
    confidence, labels = logits[0].softmax(0).max(0)
    return {f"{name}labels": labels.to(torch.uint8), f"{name}confidence": (255 * confidence).round().to(torch.uint8)}


def halves(name: str, values: Float[Tensor, "n d"]) -> Named:
    """Values as the sum of two float16, as danet.viz.answer.halves."""
    kept = values.half()
    return {name: kept, f"{name}_rest": (values - kept.float()).half()}


def gram(maps: Float[Tensor, "c n"]) -> Float[Tensor, "c c"]:
    """Products of all pairs of maps, each less its mean."""
    centred = maps - maps.mean(1, keepdim=True)
    return centred @ centred.mT
