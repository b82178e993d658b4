"""The equations of dual attention, written as the paper writes them: slow, N×N, and the truth in float64."""

import torch
from torch import Tensor


def position_map(query: Tensor, key: Tensor, scale: float = 1.0) -> Tensor:
    """S of equation (1), section 3.2: row i holds what position i takes from every position j."""
    energy = torch.einsum("...id,...jd->...ij", query, key) * scale
    return torch.softmax(energy, dim=-1)


def position_attention(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """The sum in equation (2), section 3.2, without the gate α and the residual."""
    return torch.einsum("...ij,...jc->...ic", position_map(query, key, scale), value)


def channel_map(query: Tensor, key: Tensor, rule: str) -> Tensor:
    """X of equation (3), section 3.3 ("paper"), or as the authors' code has it ("official")."""
    energy = torch.einsum("...ip,...jp->...ij", query, key)
    if rule == "official":
        energy = energy.max(dim=-1, keepdim=True).values.expand_as(energy) - energy
    return torch.softmax(energy, dim=-1)


def channel_attention(query: Tensor, key: Tensor, value: Tensor, rule: str) -> Tensor:
    """The sum in equation (4), section 3.3, without the gate β and the residual."""
    return torch.einsum("...ij,...jp->...ip", channel_map(query, key, rule), value)


def windows(height: int, width: int, sides: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Rows and columns of the pyramid's regions, level by level and row by row, as adaptive pooling cuts them."""
    return [
        (slice(y * height // side, -(-(y + 1) * height // side)), slice(x * width // side, -(-(x + 1) * width // side)))
        for side in sides
        for y in range(side)
        for x in range(side)
    ]


def centres(features: Tensor, sides: tuple[int, ...], removed: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the places of each region (b×m×c) that are not removed (h×w), and which regions have such places."""
    means, seen = [], []
    for rows, columns in windows(*features.shape[-2:], sides):
        places = features[:, :, rows, columns][:, :, ~removed[rows, columns]]
        seen.append(places.shape[2] > 0)
        means.append(places.sum(2) / max(places.shape[2], 1))
    return torch.stack(means, dim=1), torch.tensor(seen)
