"""Segment an image with the model beside this file: `python run.py street.jpg` writes street-labels.png.

It needs numpy, pillow and onnxruntime. The PNG's values are class indices, its palette the classes' colours.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
FACTS = json.loads((HERE / "labels.json").read_text(encoding="utf-8"))
SIZE = FACTS["size"]


def read(path):
    """An image of any mode as upright RGB; of 16 bits the high 8 are kept, transparency is dropped."""
    image = ImageOps.exif_transpose(Image.open(path))
    if min(image.size) < SIZE["smallest"] or image.mode == "F":
        kind = f"{image.width}×{image.height} pixels of mode {image.mode}"
        sys.exit(f"{path} is {kind}; each side must be at least {SIZE['smallest']}, and values whole numbers.")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def shrunk(image):
    """The image as the network sees it: its longest side at most `longest`, no side under `smallest`."""
    factor = min(1.0, (SIZE["longest"] or max(image.size)) / max(image.size))
    return image.resize([max(round(side * factor), SIZE["smallest"]) for side in image.size], Image.Resampling.BILINEAR)


def labels(logits, width, height):
    """The class of the greatest logit of each pixel (height×width), of logits classes×h×w, enlarged bilinearly."""
    box = None
    if SIZE["align_corners"]:  # the corner pixels' centres meet
        steps = [(few - 1) / (many - 1) for few, many in zip(logits.shape[:0:-1], (width, height), strict=True)]
        left, top = (0.5 - step / 2 for step in steps)
        box = (left, top, left + width * steps[0], top + height * steps[1])
    best = np.full((height, width), -np.inf, np.float32)
    found = np.zeros((height, width), np.uint8)
    for index, one in enumerate(logits):  # one class at a time: all of them may not fit memory at the image's size
        if one.shape != best.shape:
            one = np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR, box))
        better = one > best
        best[better], found[better] = one[better], index
    return found


def main(path):
    if FACTS["channels"]["names"] != ["red", "green", "blue"] or FACTS["channels"]["range"] != [0, 255]:
        sys.exit(f"This model takes {FACTS['channels']}, no ordinary picture; feed model.onnx as labels.json says.")
    output = Path(path).with_name(f"{Path(path).stem}-labels.png")
    if output.exists():
        sys.exit(f"{output} exists; move or remove it.")
    image = read(path)
    values = np.asarray(shrunk(image), np.float32).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=onnxruntime.get_available_providers())
    logits = np.asarray(session.run(["logits"], {"images": values})[0])
    picture = Image.fromarray(labels(logits[0], *image.size))
    picture.putpalette(np.array(FACTS["colours"], np.uint8).ravel().tolist())
    aside = output.with_name(f".{output.name}.{os.getpid()}.part")
    picture.save(aside, format="PNG")
    aside.replace(output)
    print(output)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Use: python run.py IMAGE")
    try:
        main(sys.argv[1])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
