"""What other code bases call our parameters: rename tables, as data.

A table lists (their prefix, our prefix); the first that fits renames a name. `original` is junfu1115/DANet at b0a0fa0
(encoding/models/sseg/danet.py), `mmseg` is mmsegmentation 1.2.2 (decode_heads/da_head.py, ResNetV1c).
"""

from collections.abc import Mapping

from torch import Tensor

from danet.errors import InputError

ORIGINAL = (
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
)

MMSEG = (
    ("backbone.stem.7.", "backbone.bn1."),
    ("backbone.stem.", "backbone.conv1."),
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

LAYOUTS = {"original": ORIGINAL, "mmseg": MMSEG}


def rename(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """A state dict of theirs under our names; gates take our shape [1] (mmsegmentation's have none).

    Raises InputError for a layout that is not known, and for a name that the table does not cover.
    """
    if layout not in LAYOUTS:
        raise InputError(f"There is no layout {layout!r}; known: {', '.join(LAYOUTS)}.")
    renamed = {}
    for name, tensor in state.items():
        ours = _rename(name, LAYOUTS[layout])
        renamed[ours] = tensor.reshape(1) if ours.endswith(".gate") else tensor
    return renamed


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in table:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise InputError(f"{name} is no parameter of this layout; is the checkpoint from another network?")
