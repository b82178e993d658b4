"""A matrix product at the machine's own speed, in true float32."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from danet.ops.processor import INTEL

# Multiplications below which oneDNN's set-up costs more than its product gains.
ONEDNN_WORK = 2**24


def product(left: Float[Tensor, "b n k"], right: Float[Tensor, "b k m"]) -> Float[Tensor, "b n m"]:
    """left @ right; a single large one in float32 on the CPU by oneDNN, where torch has that.

    torch gives float32 products to MKL, which leaves half of the vector units of many AMD processors idle.
    """
    if not onednn_takes(left, right):
        return left @ right
    if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
        return _Product.apply(left, right)
    # Of factors that are not dense oneDNN makes a product by plain loops; to copy one takes a small part of its time.
    rows, columns = left[0].contiguous(), right[0].mT
    if not columns.mT.is_contiguous():
        columns = columns.contiguous()
    return torch.ops.mkldnn._linear_pointwise(rows, columns, None, "none", [], "").unsqueeze(0)


def onednn_takes(left: Float[Tensor, "b n k"], right: Float[Tensor, "b k m"]) -> bool:
    """Whether `product` has oneDNN make this one."""
    backend = torch.backends.mkldnn
    return (
        not torch.compiler.is_compiling()  # first: a graph for all sizes would keep the next as a guard
        and left.numel() * right.shape[2] >= ONEDNN_WORK
        and left.shape[0] == 1
        and left.dtype == right.dtype == torch.float32
        and left.device.type == "cpu"
        and backend.is_available()
        and backend.enabled
        # The operator is private to torch, so it may be gone in another version.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not INTEL
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Float[Tensor, "1 n k"], right: Float[Tensor, "1 k m"]) -> Float[Tensor, "1 n m"]:
        ctx.save_for_backward(left, right)
        return product(left, right)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "1 n m"]) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        # leftᵀ grad, transposing the smaller of the two.
        turned = left.numel() < grad.numel()
        grad_right = product(left.mT, grad) if turned else product(grad.mT, left).mT
        return product(grad, right.mT), grad_right
