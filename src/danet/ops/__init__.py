"""Exact attention on plain tensors: no modules, no files."""

from danet.ops.channel import channel_attention, channel_attention_map
from danet.ops.position import position_attention, position_attention_columns, position_attention_rows

__all__ = [
    "channel_attention",
    "channel_attention_map",
    "position_attention",
    "position_attention_columns",
    "position_attention_rows",
]
