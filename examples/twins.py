"""A street and its twin, where the roles of road and pavement are exchanged: the same point's map in both.

    python examples/twins.py [docs/twins.png [MODEL]]      the model needs position attention

Both are paved alike; what stands on the strips tells which is which, and the map shows where the network looked.
"""

import sys

import numpy as np
from PIL import Image

import danet
from danet.data.scenes import far_from_things, scene
from danet.viz.attention import attention_overlay, caption
from danet.viz.overlay import overlay, side_by_side
from danet.viz.text import GROUND

INDEX = 5
SIGHT = 66  # pixels: what the network's convolutions see to each side, and one


def main(path: str = "docs/twins.png", model: str | None = None) -> None:
    segmenter = danet.load(model)
    street, twin = (scene(3, INDEX, twin=twin) for twin in (False, True))  # seed 3: never trained or validated on
    far = far_from_things(street.labels, SIGHT) & far_from_things(twin.labels, SIGHT)
    places = np.argwhere(far & (street.labels != twin.labels))
    y, x = (int(coordinate) for coordinate in places[len(places) // 2])
    rows = []
    for drawn in (street, twin):
        encoding = segmenter.encode(drawn.image)
        prediction, trace = encoding.prediction, encoding.traces["position"]
        named = prediction.space.names[prediction.labels[y, x]]
        truth = prediction.space.names[drawn.labels[y, x]]
        pictures = {
            "a drawn street" if drawn is street else "its twin": Image.fromarray(drawn.image),
            f"the ringed point is {truth}; predicted: {named}": overlay(
                drawn.image, prediction.labels, prediction.space, alpha=0.7, legend=False
            ),
            caption(trace.gate, trace.share.item()): attention_overlay(
                drawn.image, encoding.attention((x, y)), (x, y), span=encoding.span
            ),
        }
        rows.append(side_by_side([_twice(picture) for picture in pictures.values()], list(pictures)))
    canvas = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), GROUND)
    canvas.paste(rows[0], (0, 0))
    canvas.paste(rows[1], (0, rows[0].height))
    canvas.save(path)


def _twice(picture: Image.Image) -> Image.Image:
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(*sys.argv[1:])
