"""From an image to its prediction."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from danet.errors import InputError
from danet.inference.device import choose_device, choose_precision
from danet.inference.segmenter import Segmenter, load, network_size


@pytest.fixture
def segmenter(tiny):
    return Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")


@pytest.fixture
def picture():
    return np.random.Generator(np.random.Philox(3)).integers(0, 256, (50, 70, 3), np.uint8)


def test_prediction_is_the_models_softmax_at_the_images_size(segmenter, picture, tiny):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tiny.preprocess.mean, tiny.preprocess.std))
    images = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        expected = tiny.model(images[None]).logits[0].softmax(0)
    prediction = segmenter(picture)
    assert torch.allclose(prediction.probabilities, expected, atol=1e-5)
    assert np.array_equal(prediction.labels, expected.argmax(0).numpy())
    assert np.allclose(prediction.confidence, expected.amax(0).numpy(), atol=1e-5)
    assert np.array_equal(prediction["car"], prediction.labels == 1)
    assert np.allclose(prediction.probability("tree"), expected[2].numpy(), atol=1e-5)
    assert sum(prediction.shares.values()) == pytest.approx(1)
    with pytest.raises(InputError, match="Did you mean car"):
        prediction["cart"]


def test_what_a_session_shows_is_a_line_and_a_notebook_a_picture(segmenter, picture):
    encoding = segmenter.encode(picture)
    prediction = encoding.prediction
    name, share = max(prediction.shares.items(), key=lambda item: item[1])
    assert repr(prediction).startswith(f"Prediction(70×50 pixels: {name} {100 * share:.0f} %, ")
    assert repr(encoding).startswith(f"Encoding({prediction!r}; position attention at 7×9 places, gate ")
    assert repr(segmenter) == "Segmenter(SegmentationModel, 3 classes, on cpu in float32)"
    shown = Image.open(BytesIO(prediction._repr_png_()))
    assert np.array_equal(np.asarray(shown), np.asarray(prediction.overlay()))


def test_whatever_an_image_comes_as_it_is_one_image(segmenter, picture, tmp_path):
    path, tensor = tmp_path / "a.png", torch.from_numpy(picture).permute(2, 0, 1)
    Image.fromarray(picture).save(path)
    expected = segmenter(picture).probabilities
    for image in (Image.fromarray(picture), path, str(path), path.read_bytes(), tensor, tensor / 255):
        assert torch.equal(segmenter(image).probabilities, expected)
        assert torch.equal(next(segmenter([image])).probabilities, expected)


def test_an_iterable_is_lazy_and_in_order(segmenter, picture):
    seen = []

    def images():
        for turn in range(3):
            seen.append(turn)
            yield np.roll(picture, turn, axis=0)

    predictions = segmenter(images())
    assert seen == []
    assert torch.equal(next(predictions).probabilities, segmenter(picture).probabilities)
    assert seen == [0]
    assert len(list(predictions)) == 2


def test_the_size_rule_shrinks_and_the_prediction_has_the_images_size(tiny, picture):
    ruled = Segmenter(tiny.model, tiny.labels, tiny.preprocess.model_copy(update={"longest": 48}), "cpu", "float32")
    assert ruled.prepare(picture).shape[-2:] == (34, 48)
    assert ruled(picture).labels.shape == (50, 70)


@pytest.mark.parametrize(
    ("height", "width", "longest", "expected"),
    [
        (100, 200, None, (100, 200)),
        (100, 200, 200, (100, 200)),
        (100, 200, 100, (50, 100)),
        (40, 4000, 1000, (32, 1000)),
        (3000, 4000, 1024, (768, 1024)),
    ],
)
def test_network_size(height, width, longest, expected):
    assert network_size(height, width, longest) == expected


def test_a_model_in_training_is_left_in_training(segmenter, picture, tiny):
    tiny.model.train()
    first = segmenter(picture).probabilities
    assert tiny.model.training
    assert torch.equal(first, segmenter(picture).probabilities)


def test_saved_files_say_what_was_predicted(segmenter, picture, tmp_path):
    prediction = segmenter(picture)
    paths = prediction.save(tmp_path / "out", "street")
    with Image.open(paths["labels"]) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), prediction.labels)
        assert mask.getpalette()[:9] == [value for colour in prediction.space.colours for value in colour]
    facts = json.loads(paths["json"].read_text())
    assert facts["shares"] == pytest.approx(prediction.shares, abs=1e-6)
    assert (facts["width"], facts["height"]) == (70, 50)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths.values())


def test_load_reads_a_bundle(tiny_folder, segmenter, picture):
    found = load(tiny_folder, "cpu", "float32")(picture).probabilities
    assert torch.equal(found, segmenter(picture).probabilities)


def test_bfloat16_agrees_but_for_rounding(tiny, segmenter, picture):
    half = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "bfloat16")(picture).probabilities
    exact = segmenter(picture).probabilities
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    assert (half - exact).abs().max() < 0.05


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((1, 1, 3), np.uint8), "1×1"),
        (np.zeros((40, 40, 5), np.uint8), "height × width, with 1 to 4 channels"),
        (np.full((40, 40, 3), 255, np.float32), "floats are 0"),
        ("nowhere.png", "nowhere.png does not exist"),
    ],
)
def test_wrong_images_are_refused(segmenter, image, words):
    with pytest.raises(InputError, match=words):
        segmenter(image)


def test_devices_and_precisions():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device() == choose_device("auto")
    assert choose_precision("auto", torch.device("cpu")) in ("float32", "bfloat16")
    with pytest.raises(InputError, match="'tpu9'; it must be auto"):
        choose_device("tpu9")
    with pytest.raises(InputError, match="'int3'; it must be auto, float32, bfloat16 or float16"):
        choose_precision("int3", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="not on this machine"):
            choose_device("cuda")
