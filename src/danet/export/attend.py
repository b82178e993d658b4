"""Position attention in ONNX's operators: whole, and by blocks of queries, in memory linear in the number of places.

Both are what torch.onnx.export puts for danet::position_attention. As in danet.ops.position, scores and softmax are
float32. Which of them is faster where: docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnxscript
from onnxscript import BOOL, FLOAT, INT64, graph, script

from danet.weights.exported import Form

OPSET = 18
op: Any = onnxscript.opset18
SCORES = 2**24
"""So many scores (64 MB) a block has at most, and one row at least."""
FLOAT32 = int(onnx.TensorProto.FLOAT)
TRUE = onnx.helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])


def whole(query: Any, key: Any, value: Any, scale: float) -> tuple[Any, Any]:
    """softmax(scale · query keyᵀ) value, and the log-sum-exp."""
    query, key = op.Cast(query, to=FLOAT32), op.Cast(key, to=FLOAT32)
    scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=[0, 2, 1])), scale)
    weights = op.CastLike(op.Softmax(scores, axis=-1), value)
    return op.MatMul(weights, value), op.ReduceLogSumExp(scores, [-1], keepdims=0)


def blocks(query: Any, key: Any, value: Any, scale: float) -> tuple[Any]:
    """`whole`, a block of queries at a time in an ONNX Loop; without the log-sum-exp, which no logit needs."""
    asked = op.Mul(op.Cast(query, to=FLOAT32), scale)
    turned = op.Transpose(op.Cast(key, to=FLOAT32), perm=[0, 2, 1])
    return (_in_blocks(asked, turned, value, most=SCORES),)


@script(default_opset=op)
def _in_blocks(query: FLOAT, turned: FLOAT, value: FLOAT, most: int) -> FLOAT:
    """b×n×d, b×d×m and b×m×c to b×n×c, with so many scores at most at a time."""
    batch, length = op.Shape(query, start=0, end=1), op.Shape(query, start=1, end=2)
    depth, channels = op.Shape(query, start=2, end=3), op.Shape(value, start=2, end=3)
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    scores = batch * length * op.Shape(turned, start=2, end=3)
    count = op.Min((scores - one) / op.Constant(value_int=most) + one, length)
    rows = (length - one) / count + one
    lack = op.Concat(zero, zero, zero, zero, count * rows - length, zero, axis=0)
    apart = op.Reshape(op.Pad(query, lack), op.Concat(batch, count, rows, depth, axis=0))
    parts = op.Transpose(apart, perm=[1, 0, 2, 3])

    @graph()
    def block(index: INT64, go: BOOL):
        weights = op.Softmax(op.MatMul(op.Gather(parts, index, axis=0), turned), axis=-1)
        return op.Identity(go), op.MatMul(op.CastLike(weights, value), value)

    stacked = op.Loop(op.Squeeze(count), op.Constant(value=TRUE), body=block)
    together = op.Concat(batch, count * rows, channels, axis=0)
    joined = op.Reshape(op.Transpose(stacked, perm=[1, 0, 2, 3]), together)
    return op.Slice(joined, zero, length, one)


FORMS: dict[Form, Callable[[Any, Any, Any, float], tuple[Any, ...]]] = {"blocks": blocks, "whole": whole}
