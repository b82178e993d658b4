"""What other code bases call our parameters: rename tables, as data, used in both directions.

A table lists (their prefix, our prefix); the first that fits renames a name. `original` is junfu1115/DANet at b0a0fa0
(encoding/models/sseg/danet.py and dran.py, encoding/nn/da_att.py), `mmseg` is mmsegmentation 1.2.2
(decode_heads/da_head.py, backbones/resnet.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

from danet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["original", "mmseg"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Table = tuple[tuple[str, str], ...]

ORIGINAL: Table = (
    ("pretrained.", "backbone."),
    ("head.conv5a.0.", "head.position_in.conv."),
    ("head.conv5a.1.", "head.position_in.norm."),
    ("head.sa.query_conv.", "head.position.query."),
    ("head.sa.key_conv.", "head.position.key."),
    ("head.sa.value_conv.", "head.position.value."),
    ("head.sa.gamma", "head.position.gate"),
    ("head.conv51.0.", "head.position_out.conv."),
    ("head.conv51.1.", "head.position_out.norm."),
    ("head.conv5c.0.", "head.channel_in.conv."),
    ("head.conv5c.1.", "head.channel_in.norm."),
    ("head.sc.gamma", "head.channel.gate"),
    ("head.conv52.0.", "head.channel_out.conv."),
    ("head.conv52.1.", "head.channel_out.norm."),
    ("head.conv6.1.", "head.position_classifier."),
    ("head.conv7.1.", "head.channel_classifier."),
    ("head.conv8.1.", "head.classifier."),
    ("auxlayer.conv5.0.", "auxiliary.layers.0.conv."),
    ("auxlayer.conv5.1.", "auxiliary.layers.0.norm."),
    ("auxlayer.conv5.4.", "auxiliary.classifier."),
)

ORIGINAL_DRANET: Table = (
    ("pretrained.", "backbone."),
    ("head.conv_cpam_b.0.", "head.position_in.conv."),
    ("head.conv_cpam_b.1.", "head.position_in.norm."),
    ("head.cpam_enc.conv1.0.", "head.position.levels.0.conv."),
    ("head.cpam_enc.conv1.1.", "head.position.levels.0.norm."),
    ("head.cpam_enc.conv2.0.", "head.position.levels.1.conv."),
    ("head.cpam_enc.conv2.1.", "head.position.levels.1.norm."),
    ("head.cpam_enc.conv3.0.", "head.position.levels.2.conv."),
    ("head.cpam_enc.conv3.1.", "head.position.levels.2.norm."),
    ("head.cpam_enc.conv4.0.", "head.position.levels.3.conv."),
    ("head.cpam_enc.conv4.1.", "head.position.levels.3.norm."),
    ("head.cpam_dec.conv_query.", "head.position.query."),
    ("head.cpam_dec.conv_key.", "head.position.key."),
    ("head.cpam_dec.conv_value.", "head.position.value."),
    ("head.cpam_dec.scale", "head.position.gate"),
    ("head.conv_cpam_e.0.", "head.position_out.conv."),
    ("head.conv_cpam_e.1.", "head.position_out.norm."),
    ("head.conv_ccam_b.0.", "head.channel_in.conv."),
    ("head.conv_ccam_b.1.", "head.channel_in.norm."),
    ("head.ccam_enc.0.", "head.channel.compact.conv."),
    ("head.ccam_enc.1.", "head.channel.compact.norm."),
    ("head.ccam_dec.scale", "head.channel.gate"),
    ("head.conv_ccam_e.0.", "head.channel_out.conv."),
    ("head.conv_ccam_e.1.", "head.channel_out.norm."),
    ("head.conv_cat.0.", "head.fusion.conv."),
    ("head.conv_cat.1.", "head.fusion.norm."),
    ("head.clgd.conv_low.0.", "head.decoder.low.conv."),
    ("head.clgd.conv_low.1.", "head.decoder.low.norm."),
    ("head.clgd.conv_att.0.", "head.decoder.attention."),
    ("head.clgd.gamma", "head.decoder.gate"),
    ("head.clgd.conv_cat.0.", "head.decoder.merge.conv."),
    ("head.clgd.conv_cat.1.", "head.decoder.merge.norm."),
    ("head.clgd.conv_out.0.", "head.decoder.out.conv."),
    ("head.clgd.conv_out.1.", "head.decoder.out.norm."),
    ("cls_seg.1.", "head.classifier."),
    ("cls_aux.0.", "auxiliary.layers.0.conv."),
    ("cls_aux.1.", "auxiliary.layers.0.norm."),
    ("cls_aux.4.", "auxiliary.classifier."),
)

MMSEG: Table = (
    ("backbone.", "backbone."),
    ("decode_head.pam_in_conv.conv.", "head.position_in.conv."),
    ("decode_head.pam_in_conv.bn.", "head.position_in.norm."),
    ("decode_head.pam.query_project.", "head.position.query."),
    ("decode_head.pam.key_project.", "head.position.key."),
    ("decode_head.pam.value_project.", "head.position.value."),
    ("decode_head.pam.gamma.scale", "head.position.gate"),
    ("decode_head.pam_out_conv.conv.", "head.position_out.conv."),
    ("decode_head.pam_out_conv.bn.", "head.position_out.norm."),
    ("decode_head.cam_in_conv.conv.", "head.channel_in.conv."),
    ("decode_head.cam_in_conv.bn.", "head.channel_in.norm."),
    ("decode_head.cam.gamma.scale", "head.channel.gate"),
    ("decode_head.cam_out_conv.conv.", "head.channel_out.conv."),
    ("decode_head.cam_out_conv.bn.", "head.channel_out.norm."),
    ("decode_head.conv_seg.", "head.classifier."),
    ("decode_head.pam_conv_seg.", "head.position_classifier."),
    ("decode_head.cam_conv_seg.", "head.channel_classifier."),
    ("auxiliary_head.convs.0.conv.", "auxiliary.layers.0.conv."),
    ("auxiliary_head.convs.0.bn.", "auxiliary.layers.0.norm."),
    ("auxiliary_head.conv_seg.", "auxiliary.classifier."),
)

MMSEG_DEEP_STEM: Table = (
    ("backbone.stem.7.", "backbone.bn1."),
    ("backbone.stem.", "backbone.conv1."),
    *MMSEG,
)

MODULE: Table = (
    ("query_conv.weight", "query.weight"),
    ("query_conv.bias", "query.bias"),
    ("key_conv.weight", "key.weight"),
    ("key_conv.bias", "key.bias"),
    ("value_conv.weight", "value.weight"),
    ("value_conv.bias", "value.bias"),
    ("gamma", "gate"),
)
"""The tutorial's PAM_Module and CAM_Module (encoding/nn/da_att.py), by the ends of their names."""

NETWORKS: tuple[tuple[Layout, Table, str, str], ...] = (
    ("original", ORIGINAL, "head.conv5a.", "head.position_classifier."),
    ("original", ORIGINAL_DRANET, "head.conv_cpam_b.", "head.fusion."),
    ("mmseg", MMSEG_DEEP_STEM, "backbone.stem.", "backbone.conv1.0."),
    ("mmseg", MMSEG, "decode_head.pam_in_conv.", "head.position_classifier."),
)
"""Layout, table, and what tells the network: names that begin so, theirs and ours; the first that fits is it."""


def rename(state: Mapping[str, Tensor], layout: str, reverse: bool = False) -> dict[str, Tensor]:
    """A state dict of theirs under our names, or with `reverse` one of ours under theirs; the tensors are the same.

    A whole network is renamed by its table. In any other network `original` renames the entries of each `PAM_Module`
    and `CAM_Module`, at any depth. Other names stay. Gates take the shape of their side: ours is [1], mmsegmentation's
    has no dimension. Raises InputError for an unknown layout, and where two names would become one.
    """
    if layout not in LAYOUTS:
        raise InputError(f"There is no layout {layout!r}; known: {', '.join(LAYOUTS)}.")
    renamed: dict[str, Tensor] = {}
    for (name, tensor), other in zip(state.items(), _names(state, layout, reverse), strict=True):
        if other in renamed:
            raise InputError(f"{name} and another tensor would both be called {other}; take one of them out.")
        gate = (name if reverse else other).rpartition(".")[2] == "gate" and other != name
        shape = () if reverse and layout == "mmseg" else (1,)
        renamed[other] = tensor.reshape(shape) if gate and tensor.numel() == 1 else tensor
    return renamed


def _names(state: Mapping[str, Tensor], layout: str, reverse: bool) -> Iterable[str]:
    for known, table, theirs, ours in NETWORKS:
        if known == layout and _any(state, ours if reverse else theirs) and _any(state, "backbone.", "pretrained."):
            return [_replaced(name, table, reverse) for name in state]
    if layout == "original":
        return [_module_name(name, state, reverse) for name in state]
    return state


def _any(state: Mapping[str, Tensor], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in state)


def _replaced(name: str, table: Table, reverse: bool) -> str:
    for pair in table:
        old, new = reversed(pair) if reverse else pair
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _module_name(name: str, state: Mapping[str, Tensor], reverse: bool) -> str:
    """A name of PAM_Module or CAM_Module as the other side has it; a gate has one element, a layer scale has more."""
    for pair in MODULE:
        old, new = reversed(pair) if reverse else pair
        prefix = name.removesuffix(old)
        if prefix == name or not (prefix == "" or prefix.endswith(".")):
            continue
        gate = state.get(prefix + ("gate" if reverse else "gamma"))
        if gate is not None and gate.numel() == 1:
            return prefix + new
    return name
