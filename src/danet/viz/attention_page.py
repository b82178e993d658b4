"""The attention page: one image whose every place can be asked what it looks at, in a browser, without a server.

The file holds query and key of all places, from which page/attend.js computes any row or column of the map.
"""

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from danet.data.labels import LabelSpace
from danet.files import written_aside
from danet.viz.attention import HEAT, caption

LONGEST = 1024  # pixels of the page's picture: what a screen shows


class AttentionView(NamedTuple):
    """One image with what its position attention follows from; `labels` are predicted, at the image's size, and
    `grid` is rows × columns of places (their product is n). Keys are the places', or those of windows of places: then
    each row of `pool` has the same weight on all places of its key's window, 1 in all. `span` is how many rows and
    columns of places the image takes up; None is the whole grid."""

    name: str
    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    space: LabelSpace
    grid: tuple[int, int]
    query: Float32[np.ndarray, "n d"]
    key: Float32[np.ndarray, "m d"]
    logsumexp: Float32[np.ndarray, " n"]
    gate: float
    share: float
    pool: Float32[np.ndarray, "m n"] | None = None
    span: tuple[float, float] | None = None


def write_attention_page(path: str | Path, view: AttentionView, title: str) -> Path:
    """Write `attention_page`, whole or not at all, and return its path."""
    path = Path(path)
    with written_aside(path) as aside:
        aside.write_text(attention_page(view, title), encoding="utf-8")
    return path


def attention_page(view: AttentionView, title: str) -> str:
    """The page as text: one file that loads nothing. Raises ValueError for a view with non-finite values."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(page_file("index.html")).render(
        title=title, policy=policy(), style=page_file("style.css"), script=page_file("attend.js"), figure=figure(view)
    )


@cache
def page_file(name: str) -> Markup:
    """A file of page/, to be put into a page as it is."""
    return Markup(files("danet.viz").joinpath("page", name).read_text("utf-8"))


def policy(scripted: bool = True) -> str:
    """What a page may do: show the pictures that it holds, run `attend.js` if it holds that, and load nothing."""
    digest = b64encode(sha256(page_file("attend.js").encode()).digest()).decode()
    script = f"; script-src 'sha256-{digest}'" if scripted else ""
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{script}"


def figure(view: AttentionView) -> Markup:
    """The view as markup that `attend.js` brings to life; without scripts it is the picture and its name."""
    height, width = page_size(view)
    picture = Image.fromarray(view.image).resize((width, height), Image.Resampling.LANCZOS)
    # In JSON "<" stands only inside texts; escaped, no name can end the script element.
    packed = Markup(json.dumps(pack(view), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
    return Markup(
        '<figure class="attend"><img src="{}" alt="{}"><figcaption>{}</figcaption>'
        '<script type="application/json">{}</script></figure>'
    ).format(jpeg_uri(picture), view.name or "the image", view.name, packed)


def pack(view: AttentionView) -> dict[str, Any]:
    """The view as JSON values; arrays in base64, little-endian. Raises ValueError for non-finite values."""
    if not all(np.isfinite(part).all() for part in (view.query, view.key, view.logsumexp)):
        raise ValueError("the view's query, key or logsumexp has non-finite values; a network that diverged has no map")
    height, width = page_size(view)
    labels = Image.fromarray(view.labels).resize((width, height), Image.Resampling.NEAREST)
    # Rows of the map do not change when all keys move by the same vector, and centred keys round best.
    middle = view.key.mean(0, dtype=np.float64)
    return {
        "width": width,
        "height": height,
        "grid": view.grid,
        "span": view.span or view.grid,
        "classes": [
            {"name": name, "colour": f"#{bytes(colour).hex()}"}
            for name, colour in zip(view.space.names, view.space.colours, strict=True)
        ],
        "labels": base64(runs(np.asarray(labels))),
        "query": fixed_point(view.query),
        "key": fixed_point(view.key - middle),
        "logsumexp": base64((view.logsumexp - view.query @ middle).astype("<f4")),
        "windows": None if view.pool is None else [window(row.reshape(view.grid)) for row in view.pool],
        "heat": HEAT.tolist(),
        "notes": notes(view.gate, view.share),
    }


def page_size(view: AttentionView) -> tuple[int, int]:
    """Height and width of the page's picture: the longest side at most 1024, and a pixel at least for each place."""
    height, width = view.labels.shape
    factor = min(1.0, LONGEST / max(height, width))
    return max(round(height * factor), view.grid[0]), max(round(width * factor), view.grid[1])


def fixed_point(values: Float[np.ndarray, "n d"]) -> dict[str, Any]:
    """20 bits a number, in even steps between the extremes of each dimension: value = low + step · code.

    With that, rows and columns agree with Python's to 1e-3 of a row's maximum while a row's energies scatter (standard
    deviation) by at most 64, and trained maps by about 5. The largest error of all 2,700 places at 64 channels: 5e-5 at
    a scatter of 5, 8e-5 at 8, 3e-4 at 32, 7e-4 at 64, and 1e-3 at 100, growing in proportion. With 16 bits it was 8e-4
    at 5 and 5e-3 at 32, with float16 7e-3 and 5e-2.
    """
    low = values.min(0).astype(np.float64)
    step = np.maximum(values.max(0) - low, np.finfo(np.float32).tiny) / (2**20 - 1)
    codes = np.rint((values - low) / step).astype(">u4")
    bits = np.unpackbits(codes.view(np.uint8).reshape(-1, 4), axis=1)[:, 12:]
    return {"low": low.tolist(), "step": step.tolist(), "codes": base64(np.packbits(bits))}


def window(weights: Float[np.ndarray, "rows columns"]) -> list[int]:
    """First row, end of rows, first column and end of columns of the places that have weight."""
    down, across = np.nonzero(weights)
    return [int(down.min()), int(down.max()) + 1, int(across.min()), int(across.max()) + 1]


def runs(labels: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "r 2"]:
    """The labels row by row as pairs of class and run length less one; a run has 256 pixels at most."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    starts = np.union1d(starts, np.arange(0, flat.size, 256))
    lengths = np.diff(np.append(starts, flat.size))
    return np.stack([flat[starts], (lengths - 1).astype(np.uint8)], axis=1)


def notes(gate: float, share: float) -> list[str]:
    """What belongs beside every map, in lines: the parts of its caption, and what a negative gate means."""
    subtracted = ["the gate is negative: what is gathered is subtracted"] if gate < 0 else []
    return [*caption(gate, share).replace(" %", "\u00a0%").split(" · "), *subtracted]


def jpeg_uri(picture: Image.Image) -> str:
    """The picture as a data URI."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=85, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def base64(values: np.ndarray) -> str:
    """The array's bytes as text."""
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()
