"""Scores of several sizes and mirrored views against the authors' and mmsegmentation's rules, written out."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danet.errors import InputError
from danet.inference.protocol import PROTOCOLS, Protocol, read_protocol
from danet.inference.segmenter import Segmenter
from danet.inference.views import resized, view_size

PICTURE = np.random.Generator(np.random.Philox(3)).integers(0, 256, (50, 71, 3), np.uint8)


@pytest.fixture
def segmenter(tiny):
    return Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")


def authors_rule(
    image: Tensor, network: Callable[[Tensor], Tensor], black: Tensor, base: int, crop: int, scales, flip: bool
) -> Tensor:
    """junfu1115/DANet, encoding/models/sseg/base.py, MultiEvalModule, as it is described there; batch of one."""

    def enlarged(one: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(one, (height, width), mode="bilinear", align_corners=True)

    def padded(one: Tensor) -> Tensor:
        rows, columns = max(one.shape[2], crop), max(one.shape[3], crop)
        filled = black.expand(1, 3, rows, columns).clone()
        filled[..., : one.shape[2], : one.shape[3]] = one
        return filled

    def exponential(window: Tensor) -> Tensor:
        logits = network(window)
        return (logits + network(window.flip(3)).flip(3) if flip else logits).exp()

    height, width = image.shape[2:]
    stride, total = int(crop * 2.0 / 3.0), 0
    for scale in scales:
        longest = math.ceil(base * scale)
        if height > width:
            rows, columns = longest, int(1.0 * width * longest / height + 0.5)
        else:
            rows, columns = int(1.0 * height * longest / width + 0.5), longest
        current = enlarged(image, rows, columns)
        if longest <= crop:
            scores = exponential(padded(current))[..., :rows, :columns]
        else:
            current = padded(current) if min(rows, columns) < crop else current
            down, across = current.shape[2:]
            sums, counts = torch.zeros(1, 3, down, across), torch.zeros(1, 1, down, across)
            for row in range(math.ceil((down - crop) / stride) + 1):
                for column in range(math.ceil((across - crop) / stride) + 1):
                    top, left = row * stride, column * stride
                    bottom, right = min(top + crop, down), min(left + crop, across)
                    found = exponential(padded(current[..., top:bottom, left:right]))
                    sums[..., top:bottom, left:right] += found[..., : bottom - top, : right - left]
                    counts[..., top:bottom, left:right] += 1
            scores = (sums / counts)[..., :rows, :columns]
        total = total + enlarged(scores, height, width)
    return total


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((0.5, 0.75, 1.0, 1.5), True)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_authors_rule(segmenter, scales, flip, turned):
    segmenter.model.align_corners = True
    picture = PICTURE.transpose(1, 0, 2).copy() if turned else PICTURE
    protocol = PROTOCOLS["original-ms"][0].model_copy(
        update={"fit": (96, 96), "crop": (64, 64), "stride": (42, 42), "scales": scales, "flip": flip}
    )
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (segmenter.preprocess.mean, segmenter.preprocess.std)
    )
    image = (torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 - mean) / std
    with torch.no_grad():
        expected = authors_rule(image, segmenter.logits, -mean / std, 96, 64, scales, flip)[0]
    found = segmenter.predict(picture, protocol)
    assert (found.scores * len(scales) - expected).abs().max() < 2e-5 * expected.max()
    assert (found.probabilities - expected / expected.sum(0)).abs().max() < 1e-5
    assert np.array_equal(found.labels, expected.argmax(0).numpy())


def test_mmsegmentations_test_time_augmentation(segmenter):
    """mmseg/models/segmentors/seg_tta.py: the mean of every view's softmax at the image's own size."""
    protocol = PROTOCOLS["mmseg-ms-flip"][0].model_copy(update={"scales": (0.75, 1.0, 1.5)})
    expected = torch.zeros(3, 50, 71)
    for scale in protocol.scales:
        size = (int(50 * scale + 0.5), int(71 * scale + 0.5))
        images = resized(torch.from_numpy(PICTURE).permute(2, 0, 1)[None], size, "bilinear")
        for flip in (False, True):
            inputs = segmenter.normalised(images.flip(3) if flip else images)
            logits = F.interpolate(segmenter.logits(inputs), (50, 71), mode="bilinear")
            expected += (logits.flip(3) if flip else logits)[0].softmax(0) / 6
    found = segmenter.predict(PICTURE, protocol)
    assert found.fusion == "probabilities"
    assert (found.probabilities - expected).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(25, 36), (75, 107), (100, 142)])
def test_bilinear_takes_the_two_nearest_pixel_centres(size):
    """As OpenCV's INTER_LINEAR, which mmsegmentation resizes with, up to the rounding of a uint8."""

    def weights(long: int, short: int) -> np.ndarray:
        centres = np.clip((np.arange(long) + 0.5) * short / long - 0.5, 0, short - 1)
        return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(short)))

    expected = np.einsum("yi,xj,ijc->yxc", weights(size[0], 50), weights(size[1], 71), PICTURE)
    found = resized(torch.from_numpy(PICTURE).permute(2, 0, 1)[None], size, "bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1


def test_logits_are_averaged_where_that_is_asked_for(segmenter):
    protocol = Protocol(size="original", flip=True, fusion="logits")
    inputs = segmenter.to_input(PICTURE)
    expected = (segmenter.logits(inputs) + segmenter.logits(inputs.flip(3)).flip(3))[0] / 2
    assert (segmenter.predict(PICTURE, protocol).scores - expected).abs().max() < 1e-5


def test_mirrored_images_get_mirrored_predictions(segmenter):
    """With mirrored views the prediction of a mirrored image is the mirrored prediction: even windows, even sides."""
    picture = np.ascontiguousarray(PICTURE[:48, :64])
    for protocol in (Protocol(flip=True), Protocol(flip=True, crop=(48, 32), stride=(48, 16))):
        ahead, back = (
            segmenter.predict(one, protocol).probabilities for one in (picture, np.ascontiguousarray(picture[:, ::-1]))
        )
        assert torch.allclose(ahead, back.flip(2), atol=1e-5)


def test_a_protocol_may_be_named(segmenter):
    named, given = (segmenter(PICTURE, protocol).scores for protocol in ("camvid", PROTOCOLS["camvid"][0]))
    assert torch.equal(named, given)
    with pytest.raises(InputError, match="Did you mean camvid"):
        segmenter(PICTURE, "camvit")


def test_one_window_as_large_as_the_image_is_the_whole_image(segmenter):
    whole = segmenter.predict(PICTURE)
    for blend in ("uniform", "gaussian"):
        windowed = segmenter.predict(PICTURE, Protocol(crop=(50, 71), blend=blend))
        assert (whole.scores - windowed.scores).abs().max() < 1e-5


def test_logits_beyond_float32s_exp_give_no_nan(segmenter):
    protocol = PROTOCOLS["original-ss"][0].model_copy(update={"fit": (96, 96), "crop": (64, 64), "stride": (42, 42)})
    for factor, shift in ((1e4, 0), (1, -500)):
        with torch.no_grad():
            segmenter.model.head.classifier.weight.mul_(factor)
            segmenter.model.head.classifier.bias.add_(shift)
        assert torch.allclose(segmenter.predict(PICTURE, protocol).probabilities.sum(0), torch.ones(50, 71), atol=1e-5)


@pytest.mark.parametrize("fusion", ["logits", "probabilities", "exp"])
@pytest.mark.parametrize("flip", [False, True])
def test_only_the_chosen_classes_are_predicted(segmenter, fusion, flip):
    every = segmenter.predict(PICTURE, Protocol(fusion=fusion, flip=flip))
    some = segmenter.predict(PICTURE, Protocol(fusion=fusion, flip=flip, classes=("tree", "road")))
    assert (every.labels == 1).any()
    assert set(np.unique(some.labels)) <= {0, 2}
    assert some.probabilities[1].max() == 0
    assert torch.allclose(some.probabilities.sum(0), torch.ones(50, 71), atol=1e-5)
    kept = every.labels != 1
    if not flip:
        assert np.array_equal(some.labels[kept], every.labels[kept])
    with pytest.raises(InputError, match="Did you mean tree"):
        segmenter.predict(PICTURE, Protocol(classes=("tre",)))


@pytest.mark.parametrize(
    ("protocol", "scale", "expected"),
    [
        (Protocol(), 1, (50, 100)),
        (Protocol(), 0.5, (32, 50)),
        (Protocol(size="original"), 1.5, (300, 600)),
        (Protocol(size="fit", fit=(2048, 1024)), 1, (1024, 2048)),
        (Protocol(size="fit", fit=(1000, 200)), 1, (200, 400)),
        (Protocol(size="fit", fit=(521, 521)), 0.75, (196, 391)),
    ],
)
def test_view_sizes(protocol, scale, expected):
    assert view_size((200, 400), protocol, scale, 100) == expected


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_preset_predicts_and_is_read_back_from_its_own_words(name, segmenter, tmp_path):
    protocol = read_protocol(name)
    smaller = {"fit": (160, 160)} if protocol.fit else {}
    smaller |= {"crop": (64, 64), "stride": (42, 42)} if protocol.crop else {}
    prediction = segmenter.predict(PICTURE, protocol.model_copy(update=smaller))
    assert prediction.labels.shape == PICTURE.shape[:2]
    assert torch.allclose(prediction.probabilities.sum(0), torch.ones(50, 71), atol=1e-5)
    path = tmp_path / "report.json"
    path.write_text(f'{{"miou": 0.5, "protocol": {protocol.model_dump_json()}}}')
    assert read_protocol(path) == protocol


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("mmseg-hole", {}, "There is no protocol 'mmseg-hole'. Did you mean mmseg-whole?"),
        ("whole", {"size": "fit"}, "fit is None; it is given where size is fit, and there alone"),
        ("whole", {"fit": "[64, 64]"}, "fit is .64, 64.; it is given where size is fit"),
        ("mmseg-whole", {"fit": "[64, 65]"}, "it begins with the longer side"),
        ("whole", {"stride": "[64, 64]"}, "stride is .64, 64.; it needs crop"),
        ("whole", {"crop": "[64, 64]", "stride": "[65, 64]"}, "at least as large as their stride"),
        ("mmseg-slide", {"fusion": "exp", "blend": "gaussian"}, "exp knows uniform blending alone"),
        ("whole", {"blend": "gaussian"}, "blend is 'gaussian'; it needs crop"),
        ("whole", {"edge": "pad"}, "edge is 'pad'; it needs crop"),
        ("whole", {"classes": "[road, road]"}, "each class is named once"),
        ("whole", {"classes": "car,road"}, r"classes is 'car,road'; write a list in brackets, such as '\[512, 512\]'"),
        ("whole", {"crop": "512"}, "crop is 512; write a list in brackets"),
        ("whole", {"scales": "[]"}, "scales is"),
        ("whole", {"flop": "true"}, "there is no key flop. Did you mean flip?"),
    ],
)
def test_wrong_protocols_are_told_in_a_line(name, overrides, words):
    with pytest.raises(InputError, match=words):
        read_protocol(name, overrides)


def test_what_was_changed_is_in_the_name():
    protocol = read_protocol("mmseg-slide", {"crop": "[512, 512]", "stride": "[340, 340]"})
    assert (protocol.crop, protocol.blend) == ((512, 512), "uniform")
    assert protocol.name == "mmseg-slide with crop [512, 512], stride [340, 340]"
    assert read_protocol("whole", {"crop": "[96, 48]"}).steps == (64, 32)
