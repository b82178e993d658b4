"""The channels of an image in memory: as many as the network takes, in file values; and what people see of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Num, UInt8

from danet.config import Channels
from danet.errors import InputError

RGB = Channels()
"""Ordinary pictures: red, green and blue of 8 bits."""


def as_channels(
    values: Num[np.ndarray, "h w *c"], channels: Channels = RGB, source: str = "The array", whole: bool = True
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """File values as an image: uint8 as they are where the range is that of 8 bits, all others as float32, unscaled.

    What the range maps them to is left to `danet.data.transforms.normalise`, so that it is written once.
    Raises InputError, beginning with `source`, for another number of channels or dimensions, for what is no number,
    and where nobody stated a range for values above 8 bits, or, but for parts of an image (not `whole`),
    for floats of 0 to 1.
    """
    names, count = ", ".join(channels.names), len(channels.names)
    if values.ndim == 2 and count == 1:
        values = values[..., None]
    if values.ndim == 3 and values.shape[2] != count:
        found = "1 channel" if values.shape[2] == 1 else f"{values.shape[2]} channels"
        raise InputError(
            f"{source} has {found}, but the model takes {count} ({names}); give images that have these, or train a "
            "model with yours, listed in labels.yaml as channels: {names: […]}."
        )
    if values.ndim != 3 or values.dtype.kind not in "uif" or (channels.picture and values.dtype != np.uint8):
        kind = "uint8" if channels.picture else "integers or floats"
        rule = f"an image is {kind} of height × width × {count} ({names})"
        mend = ": convert it to 8 bits" if channels.picture and values.ndim == 3 else ""
        raise InputError(f"{source} is {values.dtype} {values.shape}; {rule}{mend}.")
    eight_bits = channels.range == (0, 255)
    if values.dtype == np.uint8 and eight_bits:
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        pixels = np.ascontiguousarray(values, np.float32)
    finite = np.isfinite(pixels)
    if not finite.all():
        y, x, channel = (int(place) for place in np.unravel_index((~finite).argmax(), pixels.shape))
        raise InputError(
            f"{source} holds {values[y, x, channel]} at pixel ({x}, {y}) of {channels.names[channel]}, which float32 "
            "does not hold as a number; fill what is missing."
        )
    if eight_bits and pixels.max(initial=0) > 255:
        raise InputError(
            f"{source} holds the value {pixels.max():g}, but channels.range is 0 to 255; state the range of such "
            "files, as in channels: {range: [0, 65535]} in labels.yaml, and train with it."
        )
    if whole and eight_bits and values.dtype.kind == "f" and 0 < pixels.max(initial=0) <= 1:
        raise InputError(
            f"{source} holds floats of 0 to 1, which are black where channels.range is 0 to 255; state it, as in "
            "channels: {range: [0, 1]} in labels.yaml, and train with it."
        )
    return pixels


def as_picture(values: Num[np.ndarray, "h w *c"], source: str = "The array") -> UInt8[np.ndarray, "h w 3"]:
    """An array of the usual kinds as RGB of 8 bits, in memory of its own.

    Grey (height × width, or one channel) is repeated, a channel of transparency after grey or RGB dropped. Of uint16
    the high 8 bits are kept, as of files; floats of 0 to 1 are taken times 255.
    Raises InputError, beginning with `source`, for other shapes, types and floats.
    """
    kind, shape = values.dtype, values.shape
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not 1 <= values.shape[2] <= 4:
        first = " Move its channels last." if values.ndim == 3 and values.shape[0] <= 4 else ""
        raise InputError(
            f"{source} is {kind} {shape}; an image is height × width, with 1 to 4 channels after it.{first}"
        )
    values = values[..., :1] if values.shape[2] < 3 else values[..., :3]
    if kind.kind == "u" and kind.itemsize == 2:
        values = values >> 8
    elif kind.kind == "f":
        outside = ~((values >= 0) & (values <= 1))  # what is no number, too
        if outside.any():
            y, x, channel = (int(place) for place in np.unravel_index(outside.argmax(), outside.shape))
            raise InputError(
                f"{source} holds the float {values[y, x, channel]:g} at pixel ({x}, {y}), but floats are 0 (black) to "
                "1 (white); divide by what is white, or give uint8 of 0 to 255."
            )
        values = np.rint(values.astype(np.float32) * 255)
    elif kind != np.uint8:
        raise InputError(f"{source} is {kind} {shape}; an image's values are uint8, uint16, or floats of 0 to 1.")
    return np.array(np.broadcast_to(values, (*shape[:2], 3)), np.uint8, order="C")


def to_display(
    pixels: UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"], channels: Channels
) -> UInt8[np.ndarray, "h w 3"]:
    """The display channels of `as_channels`' result, 0 … 255 over the stated range; a single one is shown as grey."""
    if channels.display != channels.names:
        pixels = pixels[..., [channels.names.index(name) for name in channels.display]]
    if pixels.dtype != np.uint8:
        low, high = channels.range
        pixels = np.rint(255 * np.clip((pixels - low) / (high - low), 0, 1)).astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
