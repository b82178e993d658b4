"""3×3 convolutions by Winograd's F(4×4, 3×3): a quarter of the multiplications, the same sums but for rounding.

Lavin and Gray, 2016 (arXiv 1509.09308), equations 5, 8 and 12 to 14: the map is cut into tiles of 4×4 outputs, each
from 6×6 inputs, Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A. Over all channels the product ⊙ is 36 matrix products, one for each
entry of a tile. The matrices of tiles, which act on rows and on columns, are written as one that acts on both.
"""

from collections.abc import Sequence
from itertools import product as product_of
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from danet.ops.product import onednn_takes, product

OUT, TAPS = 4, 3
TILE = OUT + TAPS - 1
GROUP = 256  # input channels at a time, so that what is computed beside the result stays small
# Of all points of interpolation tried (0 and ∞ besides) those of the smallest error in float32: 1e-6, where the plain
# sum has 2e-7 and the paper's 0, ±1, ±2 have 2e-6.
POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)


def _polynomial(roots: list[float]) -> list[float]:
    """Coefficients of ∏ (x − root), that of x⁰ first."""
    coefficients = [1.0]
    for root in roots:
        coefficients = [lower - root * same for lower, same in zip([0, *coefficients], [*coefficients, 0], strict=True)]
    return coefficients


def _matrices() -> tuple[Float[Tensor, "36 36"], Float[Tensor, "36 9"], Float[Tensor, "16 36"]]:
    """Bᵀ, G and Aᵀ by Toom and Cook: polynomials are multiplied by their values at the points, the last at infinity."""
    inputs, weights, outputs = [], [], []
    for point in POINTS:
        others = [other for other in POINTS if other != point]
        inputs.append([*_polynomial(others), 0])
        size = torch.tensor([point - other for other in others], dtype=torch.float64).prod().item()
        weights.append([point**power / size for power in range(TAPS)])
        outputs.append([point**power for power in range(OUT)])
    inputs.append(_polynomial(list(POINTS)))
    weights.append([0] * (TAPS - 1) + [1])
    outputs.append([0] * (OUT - 1) + [1])
    either = (torch.tensor(matrix, dtype=torch.float64) for matrix in (inputs, weights, outputs))
    b, g, a = (torch.kron(matrix, matrix) for matrix in either)
    return b, g, a.T


INPUT, WEIGHT, OUTPUT = _matrices()


def convolution_3x3(
    features: Float[Tensor, "b c h w"], weight: Float[Tensor, "k c 3 3"], dilation: int = 1
) -> Float[Tensor, "b k h w"]:
    """F.conv2d(features, weight, padding=dilation, dilation=dilation), computed in float32, or float64 if given.

    It has a gradient, and keeps nothing for it but its inputs. In float32 its error is about five times that of the
    plain sum, relative 1e-6. The result has the type of the features, channels last.
    """
    return convolutions_3x3(features, [weight], dilation)[0]


def convolutions_3x3(
    features: Float[Tensor, "b c h w"], weights: Sequence[Float[Tensor, "_ c 3 3"]], dilation: int = 1
) -> tuple[Float[Tensor, "b _ h w"], ...]:
    """Several convolutions of the same features, whose tiles are made once."""
    return _Convolutions.apply(features, dilation, *weights)


def fullness(shape: torch.Size, dilation: int = 1) -> tuple[int, float]:
    """How many tiles b×c×h×w features of `shape` are cut into, and the share of these that lies inside the map."""
    batch, _, height, width = shape
    tiling = Tiling.of(shape, dilation)
    tiles = batch * dilation**2 * tiling.rows * tiling.columns
    return tiles, batch * height * width / (tiles * OUT**2)


class _Convolutions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, dilation: int, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, *weights)
        ctx.tiling = tiling = Tiling.of(features.shape, dilation)
        with torch.autocast(features.device.type, enabled=False):
            totals: list[Tensor | None] = [None] * len(weights)
            for some in _groups(features):
                inputs = tiling.inputs(features[:, some])
                for index, weight in enumerate(weights):
                    totals[index] = _products(inputs, _weights(weight[:, some]).mT, totals[index])
            return tuple(tiling.outputs(total).to(features.dtype) for total in totals if total is not None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, *weights = ctx.saved_tensors
        tiling, (of_features, _, *of_weights) = ctx.tiling, ctx.needs_input_grad
        grad_features = torch.empty_like(features) if of_features else None
        grad_weights = [
            torch.empty_like(weight) if asked else None for weight, asked in zip(weights, of_weights, strict=True)
        ]
        with torch.autocast(features.device.type, enabled=False):
            products = [tiling.outputs_back(grad) for grad in grads]
            for some in _groups(features):
                if any(of_weights):
                    inputs = tiling.inputs(features[:, some])
                    for grad_weight, part in zip(grad_weights, products, strict=True):
                        if grad_weight is not None:
                            grad_weight[:, some] = _weights_back(_products(inputs.mT, part))
                    del inputs
                if grad_features is not None:
                    total = None
                    for part, weight in zip(products, weights, strict=True):
                        total = _products(part, _weights(weight[:, some]), total)
                    grad_features[:, some] = tiling.inputs_back(total)
                    del total
        return grad_features, None, *grad_weights


def _groups(features: Float[Tensor, "b c h w"]) -> list[slice]:
    return [slice(start, start + GROUP) for start in range(0, features.shape[1], GROUP)]


def _products(
    left: Float[Tensor, "36 n k"], right: Float[Tensor, "36 k m"], total: Float[Tensor, "36 n m"] | None = None
) -> Float[Tensor, "36 n m"]:
    """The product of each entry's matrices, added to `total` in its place where there is one."""
    if not onednn_takes(left[:1], right[:1]):
        return left @ right if total is None else total.baddbmm_(left, right)
    found = torch.cat([product(one, other) for one, other in zip(left.split(1), right.split(1), strict=True)])
    return found if total is None else total.add_(found)


def _weights(weight: Float[Tensor, "k c 3 3"]) -> Float[Tensor, "36 k c"]:
    """G g Gᵀ of each kernel."""
    weight = _precise(weight)
    return _apply(WEIGHT, weight.permute(2, 3, 0, 1).reshape(9, *weight.shape[:2]))


def _weights_back(grad: Float[Tensor, "36 c k"]) -> Float[Tensor, "k c 3 3"]:
    return _apply(WEIGHT.T, grad).unflatten(0, (3, 3)).permute(3, 2, 0, 1)


class Tiling(NamedTuple):
    """How maps of a size are cut into tiles. Pixels `dilation` apart are neighbours: they make maps of their own."""

    batch: int
    height: int
    width: int
    dilation: int
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: torch.Size, dilation: int) -> "Tiling":
        batch, _, height, width = shape
        rows, columns = (-(-side // (dilation * OUT)) for side in (height, width))
        return cls(batch, height, width, dilation, rows, columns)

    def inputs(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "36 n c"]:
        """Bᵀ d B of each tile d of 6×6 pixels, which overlap by two."""
        tiles = self._spread(features, border=1).unfold(1, TILE, OUT).unfold(3, TILE, OUT)
        return _apply(INPUT, tiles.permute(6, 7, 0, 2, 4, 1, 3, 5).reshape(TILE**2, -1, features.shape[1]))

    def inputs_back(self, grad: Float[Tensor, "36 n c"]) -> Float[Tensor, "b c h w"]:
        tiles = self._tiles(_apply(INPUT.T, grad), TILE)
        b, rows, _, d, columns, _, _, c = tiles.shape
        total = grad.new_zeros(b, rows + 1, OUT, d, columns + 1, OUT, d, c)
        # Lines of a tile beyond the first four are the first two of the next.
        own, next_ones = (slice(-1), slice(OUT), slice(OUT)), (slice(1, None), slice(TILE - OUT), slice(OUT, TILE))
        for (row, y, tile_y), (column, x, tile_x) in product_of((own, next_ones), repeat=2):
            total[:, row, y, :, column, x] += tiles[:, :, tile_y, :, :, tile_x]
        return self._gather(total, border=1)

    def outputs(self, products: Float[Tensor, "36 n k"]) -> Float[Tensor, "b k h w"]:
        """Aᵀ m A of each tile, 4×4 pixels, side by side."""
        found = self._gather(self._tiles(_apply(OUTPUT, products), OUT), border=0)
        return found.contiguous(memory_format=torch.channels_last)

    def outputs_back(self, grad: Float[Tensor, "b k h w"]) -> Float[Tensor, "36 n k"]:
        tiles = self._spread(grad, border=0).unflatten(3, (-1, OUT)).unflatten(1, (-1, OUT))
        return _apply(OUTPUT.T, tiles.permute(2, 5, 0, 3, 6, 1, 4, 7).reshape(OUT**2, -1, grad.shape[1]))

    def _tiles(self, entries: Float[Tensor, "i n c"], side: int) -> Float[Tensor, "b rows y d columns x d c"]:
        """The n tiles of i = side² entries, in the places that they have in the map."""
        d = self.dilation
        shape = (side, side, self.batch, d, d, self.rows, self.columns, entries.shape[-1])
        return entries.view(shape).permute(2, 5, 0, 3, 6, 1, 4, 7)

    def _spread(self, features: Float[Tensor, "b c h w"], border: int) -> Float[Tensor, "b H d W d c"]:
        """The map channels last and filled up with zeros to whole tiles and a border, `dilation` apart each."""
        d = self.dilation
        below, right = (
            d * (OUT * count + border) - side for count, side in ((self.rows, self.height), (self.columns, self.width))
        )
        padded = F.pad(_precise(features).permute(0, 2, 3, 1), (0, 0, d * border, right, d * border, below))
        return padded.unflatten(2, (-1, d)).unflatten(1, (-1, d))

    def _gather(self, total: Float[Tensor, "b rows y d columns x d c"], border: int) -> Float[Tensor, "b c h w"]:
        """The map without what `_spread` adds."""
        whole = total.flatten(4, 6).flatten(1, 3)
        start = border * self.dilation
        return whole[:, start : start + self.height, start : start + self.width].permute(0, 3, 1, 2)


def _apply(matrix: Float[Tensor, "m n"], entries: Float[Tensor, "n t c"]) -> Float[Tensor, "m t c"]:
    """The matrix on the entries of every tile and channel."""
    found = product(matrix.to(entries)[None], entries.flatten(1)[None])[0]
    return found.view(len(matrix), *entries.shape[1:])


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
