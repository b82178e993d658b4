"""Every way in which files of a data set are known to be broken: found before training, with file, value and mend."""

import numpy as np
import pytest
from PIL import Image

from danet.data.dataset import Dataset
from danet.data.doctor import check, refuse_binary_with_ignored
from danet.data.sources import folder, open_source
from danet.errors import InputError
from tests.data.trees import save_folder, save_image, save_mask

STEMS = [f"{number:02}" for number in range(12)]


def opened(root) -> Dataset:
    return Dataset(*folder(root, "train"))


def of_another_size(images, masks):
    save_mask(masks, width=47)


def rgb(images, masks):
    Image.new("RGB", (48, 40)).save(masks)


def rgba(images, masks):
    Image.new("RGBA", (48, 40)).save(masks)


def outside(images, masks):
    values = np.zeros((40, 48), np.uint8)
    values[2, 7] = 204
    save_mask(masks, values)


def outside_in_16_bits(images, masks):
    values = np.zeros((40, 48), np.uint16)
    values[39, 47] = 26001
    save_mask(masks, values)


def truncated_image(images, masks):
    images.write_bytes(images.read_bytes()[:-200])


def truncated_mask(images, masks):
    save_mask(masks, np.random.default_rng(0).integers(0, 3, (40, 48), np.uint8))
    masks.write_bytes(masks.read_bytes()[:-200])


def one_pixel(images, masks):
    save_image(images, 1, 1)
    save_mask(masks, width=1, height=1)


def no_image(images, masks):
    images.write_text("GIF? no")


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (of_another_size, r"masks/train/05\.png is 47×40 pixels, its image .*images/train/05\.png 48×40"),
        (rgb, r"masks/train/05\.png is RGB; a mask is one channel of class indices .* Save each pixel's class index"),
        (rgba, r"masks/train/05\.png is RGBA; a mask is one channel"),
        (outside, r"masks/train/05\.png holds the value 204 at pixel \(7, 2\).* Correct the mask, or map 204"),
        (outside_in_16_bits, r"masks/train/05\.png holds the value 26001 at pixel \(47, 39\)"),
        (truncated_image, r"images/train/05\.png cannot be read: .*truncated.* Copy or export the file again"),
        (truncated_mask, r"masks/train/05\.png cannot be read: .*truncated"),
        (one_pixel, r"images/train/05\.png is 1×1 pixels; an image needs at least 32×32"),
        (no_image, r"images/train/05\.png cannot be read: it is no image of a known format"),
    ],
)
def test_each_fault_is_found_and_the_first_one_is_told(tmp_path, breaks, told):
    save_folder(tmp_path, STEMS, "train")
    for stem in ("05", "06", "11"):
        breaks(tmp_path / "images" / "train" / f"{stem}.png", tmp_path / "masks" / "train" / f"{stem}.png")
    with pytest.raises(InputError, match=told) as error:
        check(opened(tmp_path), workers=4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_whole_dataset_is_counted(tmp_path, workers):
    save_folder(tmp_path, STEMS, "train")
    save_mask(tmp_path / "masks" / "train" / "03.png", np.full((40, 48), 255, np.uint8))
    dataset, seen = opened(tmp_path), []
    summary = check(dataset, workers, lambda done, total: seen.append((done, total)))
    masks = np.stack([dataset[index].mask.numpy() for index in range(12)])
    assert summary.pixels.dtype == np.int64
    assert summary.pixels.tolist() == [int((masks == index).sum()) for index in range(3)]
    assert (summary.files, summary.ignored) == (12, 40 * 48)
    assert seen == [(done, 12) for done in range(1, 13)]
    dataset.preload()
    for path in tmp_path.glob("*/*/*.png"):
        path.unlink()
    assert check(dataset).pixels.tolist() == summary.pixels.tolist()


def test_masks_of_0_and_255_get_the_two_lines_that_mend_them(tmp_path):
    save_folder(tmp_path, STEMS, "train")
    (tmp_path / "labels.yaml").write_text("names: [background, crack]\n")
    for stem in STEMS:
        save_mask(tmp_path / "masks" / "train" / f"{stem}.png", np.eye(40, 48, dtype=np.uint8) * 255)
    dataset = opened(tmp_path)
    with pytest.raises(
        InputError, match=r"nothing but background and 255.* write ids: \{0: 0, 255: 1\} and ignore: \[\]"
    ):
        refuse_binary_with_ignored(dataset, check(dataset))
    (tmp_path / "labels.yaml").write_text("names: [background, crack]\nids: {0: 0, 255: 1}\nignore: []\n")
    assert check(opened(tmp_path)).pixels.tolist() == [12 * (40 * 48 - 40), 12 * 40]


def test_masks_without_any_label_are_refused(tmp_path):
    save_folder(tmp_path, STEMS[:2], "train")
    for stem in STEMS[:2]:
        save_mask(tmp_path / "masks" / "train" / f"{stem}.png", np.full((40, 48), 255, np.uint8))
    with pytest.raises(InputError, match=r"The 2 masks .* hold nothing but ignored values"):
        check(opened(tmp_path))


def test_scenes_are_counted_too():
    items, labels = open_source("scenes", "train", count=3, size=(48, 64))
    summary = check(Dataset(items, labels), workers=2)
    assert int(summary.pixels.sum()) + summary.ignored == 3 * 48 * 64
    assert summary.pixels[labels.index("road")] > 0
