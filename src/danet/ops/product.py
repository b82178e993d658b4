"""A matrix product on the CPU at the machine's own speed, in true float32."""

import torch
from jaxtyping import Float
from torch import Tensor

# Below this many rows or columns oneDNN's set-up costs more than its product gains.
ONEDNN_SIZE = 128


def product(left: Float[Tensor, "b n k"], right: Float[Tensor, "b k m"]) -> Float[Tensor, "b n m"]:
    """left @ right; a single one in float32 on the CPU by oneDNN, where it can (no autograd there).

    torch gives float32 products to MKL, which leaves half of an AMD processor's vector units idle.
    """
    if left.dtype == torch.float32 and left.device.type == "cpu" and _onednn_takes(left, right):
        # oneDNN wants dense rows; copying a strided block takes a small part of its product's time.
        rows, columns = left[0].contiguous(), right[0].mT
        if 1 not in columns.stride():
            columns = columns.contiguous()
        return torch.ops.mkldnn._linear_pointwise(rows, columns, None, "none", [], "").unsqueeze(0)
    return left @ right


def _onednn_takes(left: Tensor, right: Tensor) -> bool:
    backend = torch.backends.mkldnn
    return (
        left.shape[0] == 1
        and left.shape[2] > 0
        and min(left.shape[1], right.shape[2]) >= ONEDNN_SIZE
        and backend.is_available()
        and backend.enabled
        # The operator is private to torch, so it may be gone in another version.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
