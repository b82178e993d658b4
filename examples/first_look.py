"""The README's picture: a drawn street, its segmentation, and what one far place of the ground attends to.

    python examples/first_look.py runs/demo-1/danet/best docs/first-look.png

The network sees the street at 192×256, as in its training; the picture shows it at twice that size.
"""

import sys

import numpy as np
from PIL import Image

import danet
from danet.data.scenes import scene
from danet.viz.attention import attention_overlay, caption
from danet.viz.overlay import overlay, side_by_side

INDEX = 47


def main(bundle: str, path: str) -> None:
    seen, shown = scene(1, INDEX, 192, 256), scene(1, INDEX, 384, 512)  # seed 1: held out, a street for validation
    encoding = danet.load(bundle).encode(seen.image)
    prediction, trace = encoding.prediction, encoding.traces["position"]
    places = np.argwhere(seen.far)
    y, x = (int(coordinate) for coordinate in places[len(places) // 2])
    labels = np.repeat(np.repeat(prediction.labels, 2, axis=0), 2, axis=1)
    pictures = {
        "a drawn street": Image.fromarray(shown.image),
        "its classes": overlay(shown.image, labels, prediction.space, alpha=0.7, legend=False),
        caption(trace.gate, trace.share.item()): attention_overlay(
            shown.image, encoding.attention((x, y)), (2 * x, 2 * y)
        ),
    }
    side_by_side(list(pictures.values()), list(pictures)).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
