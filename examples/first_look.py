"""The README's picture: a drawn street, its segmentation, and what one far place of the ground attends to.

python examples/first_look.py runs/demo-1/danet/best docs/first-look.png
"""

import sys

import numpy as np

import danet
from danet.data.scenes import scene
from danet.viz.attention import attention_overlay, caption
from danet.viz.overlay import overlay, side_by_side

INDEX = 4


def main(bundle: str, path: str) -> None:
    drawn = scene(1, INDEX, 192, 256)  # seed 1: a street of the validation set
    encoding = danet.load(bundle).encode(drawn.image)
    prediction, trace = encoding.prediction, encoding.traces["position"]
    y, x = (int(place) for place in np.argwhere(drawn.far)[len(np.argwhere(drawn.far)) // 2])
    pictures = [
        overlay(drawn.image, prediction.labels, prediction.space, alpha=0.0, legend=False),
        overlay(drawn.image, prediction.labels, prediction.space, alpha=0.8),
        attention_overlay(drawn.image, encoding.attention((x, y)), (x, y)),
    ]
    words = caption(trace.gate, trace.share.item())
    side_by_side(pictures, ["a drawn street", "its classes", words]).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
