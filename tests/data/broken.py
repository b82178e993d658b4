"""A corpus of broken data sets: a sound one, each way in which such sets are known to break, and what is told of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from tests.data.trees import save_folder, save_image, save_mask

TRAIN, VAL = [f"{number:02}" for number in range(8)], ["20", "21", "22"]
ALL = (*(f"masks/train/{stem}.png" for stem in TRAIN), *(f"masks/val/{stem}.png" for stem in VAL))


class Broken(NamedTuple):
    """breaks: what it does to a sound folder; told: a pattern of the finding; files: those it names, below the folder.

    trains: whether a run refuses it, in the same words.
    """

    breaks: Callable[[Path], object]
    level: str
    kind: str
    told: str
    files: tuple[str, ...] = ()
    refused: bool = True

    @property
    def name(self) -> str:
        return self.breaks.__name__


def sound(root: Path) -> Path:
    """Eight pairs for training, three for validation, of classes road, car and tree."""
    save_folder(root, TRAIN, "train")
    for number, stem in enumerate(VAL, start=100):
        save_image(root / "images" / "val" / f"{stem}.png", seed=number)
        save_mask(root / "masks" / "val" / f"{stem}.png")
    return root


def image(root: Path, stem: str = "05", split: str = "train") -> Path:
    return root / "images" / split / f"{stem}.png"


def mask(root: Path, stem: str = "05", split: str = "train") -> Path:
    return root / "masks" / split / f"{stem}.png"


def masks(root: Path) -> list[Path]:
    return sorted((root / "masks").glob("*/*.png"))


def with_value(value: int, x: int, y: int, dtype: type = np.uint8) -> np.ndarray:
    values = np.zeros((40, 48), dtype)
    values[y, x] = value
    return values


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def truncated_image(root):
    cut(image(root))
    cut(image(root, "06"))


def truncated_mask(root):
    save_mask(mask(root), np.random.default_rng(0).integers(0, 3, (40, 48), np.uint8))
    cut(mask(root))


def empty_file(root):
    image(root).write_bytes(b"")


def no_image(root):
    image(root).write_text("GIF? no")


def a_link_to_nothing(root):
    mask(root).unlink()
    mask(root).symlink_to(root / "gone.png")


def image_and_mask_both(root):
    cut(image(root))
    Image.new("RGB", (48, 40)).save(mask(root))


def of_another_size(root):
    save_mask(mask(root), width=47)
    save_mask(mask(root, "21", "val"), width=24)


def turned_by_exif(root):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(image(root)) as upright:
        upright.save(image(root).with_suffix(".jpg"), exif=exif)
    image(root).unlink()


def rgb_mask(root):
    Image.new("RGB", (48, 40)).save(mask(root))


def rgba_masks(root):
    for path in masks(root):
        Image.new("RGBA", (48, 40)).save(path)


def float_mask(root):
    mask(root).unlink()
    Image.new("F", (48, 40)).save(mask(root), format="TIFF")


def one_pixel(root):
    save_image(image(root), 1, 1)
    save_mask(mask(root), width=1, height=1)


def float_image(root):
    image(root).unlink()
    Image.new("F", (48, 40)).save(image(root), format="TIFF")


def value_outside(root):
    save_mask(mask(root), with_value(204, 7, 2))
    save_mask(mask(root, "06"), with_value(26, 0, 0))


def value_outside_in_16_bits(root):
    save_mask(mask(root), with_value(26001, 47, 39, np.uint16))


def binary_with_255_ignored(root):
    (root / "labels.yaml").write_text("names: [background, crack]\n")
    for path in masks(root):
        save_mask(path, np.eye(40, 48, dtype=np.uint8) * 255)


def binary_of_another_value(root):
    (root / "labels.yaml").write_text("names: [background, crack]\n")
    for path in masks(root):
        save_mask(path, np.eye(40, 48, dtype=np.uint8) * 128)


def counted_from_one(root):
    for path in masks(root):
        save_mask(path, (np.arange(40 * 48).reshape(40, 48) % 4).astype(np.uint8))


def compressed_masks(root):
    for path in masks(root):
        save_mask(path, np.tile(np.arange(48, dtype=np.uint8), (40, 1)))


def nothing_labelled(root):
    for stem in TRAIN:
        save_mask(mask(root, stem), np.full((40, 48), 255, np.uint8))


def one_mask_not_labelled(root):
    save_mask(mask(root), np.full((40, 48), 255, np.uint8))


def unknown_colour(root):
    (root / "labels.yaml").write_text(
        "names: [road, car]\nmasks: colours\ncolours: [[128, 64, 128], [0, 0, 142]]\nignore_colours: [[0, 0, 0]]\n"
    )
    for path in masks(root):
        Image.new("RGB", (48, 40), (128, 64, 128)).save(path)
    pixels = Image.new("RGB", (48, 40))
    pixels.putpixel((3, 1), (1, 2, 3))
    pixels.save(mask(root))


def image_without_mask(root):
    mask(root).unlink()
    mask(root, "20", "val").unlink()


def mask_as_jpeg(root):
    mask(root).rename(mask(root).with_suffix(".jpg"))


def mask_without_image(root):
    save_mask(mask(root, "spare"))


def two_of_a_stem(root):
    shutil.copy(image(root), image(root).with_suffix(".jpg"))


def no_labels(root):
    (root / "labels.yaml").unlink()


def no_validation(root):
    shutil.rmtree(root / "masks" / "val")


def absent_from_validation(root):
    for stem in VAL:
        save_mask(mask(root, stem, "val"), np.zeros((40, 48), np.uint8))


def absent_from_training(root):
    for stem in TRAIN:
        save_mask(mask(root, stem), np.full((40, 48), 2, np.uint8))


def a_single_class(root):
    (root / "labels.yaml").write_text("names: [crack]\nids: {0: 0, 1: 0, 2: 0}\n")


def sixteen_bits(root):
    Image.fromarray(np.random.default_rng(5).integers(0, 4096, (40, 48), np.uint16)).save(image(root))


def one_grey_image(root):
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 48), np.uint8)).save(image(root))


def large_image(root):
    save_image(image(root), 4100, 32, seed=5)
    save_mask(mask(root), width=4100, height=32)


def same_picture_in_both_splits(root):
    with Image.open(image(root)) as picture:
        picture.resize((96, 80), Image.Resampling.BICUBIC).save(image(root, "21", "val"))
    save_mask(mask(root, "21", "val"), width=96, height=80)


CORPUS = (
    Broken(truncated_image, "error", "file", "05.png cannot be read: .*truncated.* Copy or export the file again",
           ("images/train/05.png", "images/train/06.png")),
    Broken(truncated_mask, "error", "file", "05.png cannot be read: .*truncated", ("masks/train/05.png",)),
    Broken(empty_file, "error", "file", "05.png cannot be read: it is empty", ("images/train/05.png",)),
    Broken(no_image, "error", "file", "cannot be read: it is no image of a known format", ("images/train/05.png",)),
    Broken(a_link_to_nothing, "error", "pair", "05.png has no mask: there is no .*05.png", ("images/train/05.png",)),
    Broken(image_and_mask_both, "error", "file", "cannot be read", ("images/train/05.png",)),
    Broken(image_and_mask_both, "error", "file", "is RGB; .*", ("masks/train/05.png",), refused=False),
    Broken(of_another_size, "error", "file", "is 47×40 pixels, its image .* 48×40 .* Save it again at that size",
           ("masks/train/05.png", "masks/val/21.png")),
    Broken(turned_by_exif, "error", "file", "is 48×40 pixels, its image .* 40×48 .* Turn the mask as .* EXIF",
           ("masks/train/05.png",)),
    Broken(rgb_mask, "error", "file", "is RGB; a mask is one channel .* Save each pixel's class index",
           ("masks/train/05.png",)),
    Broken(rgba_masks, "error", "file", "is RGBA; a mask is one channel",
           ALL),
    Broken(float_mask, "error", "file", "is F; a mask is one channel", ("masks/train/05.png",)),
    Broken(one_pixel, "error", "file", "is 1×1 pixels; .* at least 32×32", ("images/train/05.png",)),
    Broken(float_image, "error", "file", "holds floating-point values; save it with 8", ("images/train/05.png",)),
    Broken(value_outside, "error", "value",
           r"holds the value 204 at pixel \(7, 2\).* map 204 .*In all 2 pixels hold 26, 204\.",
           ("masks/train/05.png", "masks/train/06.png")),
    Broken(value_outside_in_16_bits, "error", "value", r"holds the value 26001 at pixel \(47, 39\)",
           ("masks/train/05.png",)),
    Broken(binary_with_255_ignored, "error", "label",
           r"nothing but background and 255.* write ids: \{0: 0, 255: 1\} and ignore: \[\] in labels.yaml"),
    Broken(binary_of_another_value, "error", "value",
           r"If 128 is crack, write ids: \{0: 0, 128: 1\} and ignore: \[\] in labels.yaml",
           ALL),
    Broken(counted_from_one, "error", "value",
           r"If 0 means not labelled, write ids: \{1: 0, 2: 1, 3: 2\} and ignore: \[0, 255\]",
           ALL),
    Broken(compressed_masks, "error", "value",
           "hold 3, 4, 5, .* and 33 more values. So many values come from masks that were compressed",
           ALL),
    Broken(nothing_labelled, "error", "label", "The 8 masks .* hold nothing but ignored values; take out of ignore"),
    Broken(one_mask_not_labelled, "warning", "label", "holds nothing but ignored values. Leave it out",
           ("masks/train/05.png",)),
    Broken(unknown_colour, "error", "value", r"the colour \[1, 2, 3\] at pixel \(3, 1\)", ("masks/train/05.png",)),
    Broken(image_without_mask, "error", "pair", "05.png has no mask: there is no .* Add the mask, or leave the image",
           ("images/train/05.png", "images/val/20.png")),
    Broken(mask_as_jpeg, "error", "pair", "has no mask: there is no .*05.png, but .*05.jpg", ("images/train/05.png",)),
    Broken(mask_without_image, "warning", "pair", "spare.png has no image in .* Add the image",
           ("masks/train/spare.png",)),
    Broken(two_of_a_stem, "error", "pair", "have the same stem; rename or remove one", ("images/train/05.png",)),
    Broken(no_labels, "error", "set-up", "has no labels.yaml; write one"),
    Broken(no_validation, "error", "set-up", "val does not exist; put the masks there"),
    Broken(absent_from_validation, "warning", "class", "val has no pixel of car, tree, which have no score"),
    Broken(absent_from_training, "warning", "class", "train has no pixel of road, car, which cannot be learnt"),
    Broken(a_single_class, "warning", "class", "have one class"),
    Broken(sixteen_bits, "warning", "depth", r"has 16 bits a channel.* range: \[0, 65535\]", ("images/train/05.png",)),
    Broken(one_grey_image, "warning", "colour", "is grey, most other images are in colour", ("images/train/05.png",)),
    Broken(large_image, "warning", "size", "is 4100×32 pixels; over 4,096 a side, .* danet data tile",
           ("images/train/05.png",)),
    Broken(same_picture_in_both_splits, "warning", "duplicate",
           r"21.png \(val\) looks like .*05.png \(train\): [0-4] of the 64 bits", ("images/val/21.png",)),
)  # fmt: skip
"""Every failure with what is told of it."""
