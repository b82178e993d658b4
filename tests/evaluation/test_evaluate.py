"""One protocol, one report: its numbers are those of the predictions."""

import json
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn.functional import nll_loss

import danet
from danet.data.dataset import Dataset, Item
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.sources import open_source
from danet.errors import InputError
from danet.evaluation.boundary import boundary_counts
from danet.evaluation.evaluate import ImageScore, Report, evaluate
from danet.evaluation.metrics import Scores, confusion_matrix
from danet.inference.prediction import Prediction
from danet.inference.protocol import PROTOCOLS, Protocol, read_protocol
from danet.inference.segmenter import Segmenter
from danet.viz.answer import ModelFacts

NAMES = ("road", "car", "tree")
SIZE = (9, 12)


@pytest.fixture
def segmenter(tiny):
    return Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32", ModelFacts("tiny"))


@pytest.fixture
def dataset(own_data):
    return Dataset(*open_source("folder", "train", root=own_data))


class Knowing:
    """A segmenter that answers with given scores, one after the other, as `protocol` has them fused."""

    def __init__(self, names, answers):
        self.labels, self.facts = LabelSpace("drawn", names), ModelFacts("knowing")
        self.device, self.precision = torch.device("cpu"), "float32"
        self.answers = iter(answers)

    def predict(self, pixels, protocol):
        scores = torch.from_numpy(next(self.answers))
        if protocol.classes:
            away = [index for index, name in enumerate(self.labels.names) if name not in protocol.classes]
            scores = scores.clone()
            scores[away] = -torch.inf
        return Prediction(pixels, scores, self.labels)


def drawn(masks, names=NAMES, transform=None):
    """A data set of black images with these masks, each named by its place."""
    items = [
        Item(str(place), partial(lambda mask: (np.zeros((*mask.shape, 3), np.uint8), mask), mask))
        for place, mask in enumerate(masks)
    ]
    return Dataset(items, LabelSpace("drawn", names), transform)


def test_a_report_adds_up_the_predictions(segmenter, dataset):
    told, kept = [], {}
    report = evaluate(
        segmenter,
        dataset,
        region=lambda truth: truth == 1,
        progress=lambda *now: told.append(now),
        keep=lambda name, labels: kept.update({name: labels}),
    )
    total, apart, outlines = np.zeros((3, 3), np.int64), np.zeros((3, 3), np.int64), np.zeros((2, 3), np.int64)
    for index, row in enumerate(report.images):
        sample = dataset[index]
        truth, prediction = sample.mask.numpy(), segmenter(sample.pixels)
        confusion = confusion_matrix(prediction.labels, truth, 3)
        scores = Scores(("a", "b", "c"), confusion)
        loss = nll_loss(prediction.probabilities.log()[None], sample.mask.long()[None]).item()
        expected = ImageScore(sample.name, scores.pixel_accuracy, scores.miou, pytest.approx(loss, abs=1e-6), 48 * 64)
        assert row == expected
        assert np.array_equal(kept[sample.name], prediction.labels)
        total += confusion
        apart[1] += confusion[1]
        outlines += boundary_counts(prediction.labels, truth, 3)
    assert np.array_equal(report.scores.confusion, total)
    assert np.array_equal(report.region.confusion, apart)
    assert np.array_equal(report.boundary.counts, outlines)
    assert report.calibration.pixels.sum(1).tolist() == [total.sum(), np.trace(total)]
    assert report.binary is None
    assert report.majority == 1
    assert report.loss == pytest.approx(np.mean([image.loss for image in report.images]))
    assert told == [(done, 8) for done in range(1, 9)]
    assert (report.model, report.data) == ("tiny", dataset.labels.name)
    assert (report.device, report.precision) == ("cpu", "float32")
    found = report.to_dict()
    assert (found["context"], found["majority"], found["image_count"]) == (report.region.pixel_accuracy, 1, 8)
    assert [image["loss"] for image in found["images"]] == sorted((i.loss for i in report.images), reverse=True)
    assert found["danet"] == danet.__version__
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_without_details_images_are_known_by_their_accuracy(segmenter, dataset):
    whole, report = evaluate(segmenter, dataset), evaluate(segmenter, dataset, details=False)
    assert np.array_equal(whole.scores.confusion, report.scores.confusion)
    assert (report.loss, report.boundary, report.calibration) == (None, None, None)
    worst = report.worst(3)
    assert [image.pixel_accuracy for image in worst] == sorted(image.pixel_accuracy for image in report.images)[:3]
    assert not {"loss", "boundary", "calibration", "binary"} & report.to_dict().keys()


def test_an_image_without_a_pixel_that_counts_is_not_the_worst():
    scores = Scores(NAMES, np.zeros((3, 3), np.int64))
    rows = [
        ImageScore("void", None, None, None, 0),
        ImageScore("good", 0.9, 0.8, None, 5),
        ImageScore("bad", 0.1, 0, None, 5),
    ]
    assert [image.name for image in Report(Protocol(), scores, rows).worst()] == ["bad", "good", "void"]
    rows = [row._replace(loss=loss) for row, loss in zip(rows, (None, 0.2, 3.0), strict=True)]
    assert [image.name for image in Report(Protocol(), scores, rows).worst(2)] == ["bad", "good"]


def test_protocols_differ_where_the_size_rule_acts(tiny, dataset):
    ruled = Segmenter(tiny.model, tiny.labels, tiny.preprocess.model_copy(update={"longest": 40}), "cpu", "float32")
    whole, original = (evaluate(ruled, dataset, protocol) for protocol in ("whole", "whole-original"))
    assert not np.array_equal(whole.scores.confusion, original.scores.confusion)
    plain = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    assert np.array_equal(evaluate(plain, dataset).scores.confusion, original.scores.confusion)


@pytest.mark.parametrize(
    "protocol",
    [
        PROTOCOLS["mmseg-ms-flip"][0],
        Protocol(name="windows", size="original", crop=(40, 40), stride=(30, 30), blend="gaussian", fusion="logits"),
        Protocol(name="two", classes=("tree", "road")),
    ],
    ids=lambda protocol: protocol.name,
)
def test_a_report_can_be_made_again_from_its_file(segmenter, dataset, tmp_path, protocol):
    report = evaluate(segmenter, dataset, protocol)
    (tmp_path / "report.json").write_text(json.dumps(report.to_dict()))
    again = read_protocol(tmp_path / "report.json")
    assert again == report.protocol == protocol
    assert evaluate(segmenter, dataset, again).to_dict() == report.to_dict()
    plain = evaluate(segmenter, dataset)
    assert plain.to_dict() != report.to_dict()


def test_of_some_classes_only_their_pixels_count(segmenter, dataset):
    """As a model that has no other would answer where the truth is one of them."""
    report = evaluate(segmenter, dataset, Protocol(name="two", classes=("tree", "road")))
    expected = np.zeros((2, 2), np.int64)
    for index in range(len(dataset)):
        sample = dataset[index]
        two = segmenter(sample.pixels).scores[[0, 2]].argmax(0)
        truth = sample.mask.numpy()
        for row, true in enumerate((0, 2)):
            expected[row] += np.bincount(two.numpy()[truth == true], minlength=2)
    assert report.scores.names == report.boundary.names == ("road", "tree")
    assert np.array_equal(report.scores.confusion, expected)
    assert report.binary.name == "tree"
    assert report.binary.counts.sum(1).tolist() == expected.sum(1).tolist()
    assert sum(image.pixels for image in report.images) == expected.sum()


LOGITS = arrays(np.float32, (3, *SIZE), elements=st.integers(-3, 3).map(float))


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.uint8, SIZE, elements=st.sampled_from([0, 1, 2, IGNORE_INDEX])),
    LOGITS,
    LOGITS,
    st.sampled_from([(), ("car", "tree"), ("road",)]),
)
def test_what_is_predicted_at_void_changes_no_score(mask, logits, other, classes):
    void = ~np.isin(mask, [NAMES.index(name) for name in classes or NAMES])
    changed = np.where(void, other, logits)
    protocol, dataset = Protocol(classes=classes), drawn([mask])
    one, two = (evaluate(Knowing(NAMES, [scores]), dataset, protocol) for scores in (logits, changed))
    assert one.to_dict() == two.to_dict()
    assert not set(one.scores.absent) & {NAMES[index] for index in np.unique(mask[~void])}


def test_absent_classes_are_named_and_in_no_mean():
    mask = np.array([[0, 0, 1, IGNORE_INDEX]], np.uint8)
    logits = np.array([[[9, 0, 0, 0]], [[0, 9, 9, 0]], [[0, 0, 0, 9]]], np.float32)
    report = evaluate(Knowing(NAMES, [logits]), drawn([mask]))
    assert report.scores.absent == ("tree",)
    assert report.scores.miou == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert report.to_dict()["absent"] == ["tree"]
    assert report.boundary.iou["tree"] is None


def test_of_two_classes_the_second_has_a_curve():
    generator = np.random.Generator(np.random.Philox(0))
    masks = [generator.integers(0, 2, SIZE, np.uint8) for _ in range(2)]
    logits = [generator.normal(size=(2, *SIZE)).astype(np.float32) for _ in masks]
    report = evaluate(Knowing(NAMES[:2], logits), drawn(masks, NAMES[:2]))
    probability = np.concatenate([torch.from_numpy(one).softmax(0)[1].numpy().ravel() for one in logits])
    true = np.concatenate([mask.ravel() for mask in masks]) == 1
    threshold, precision, recall, _ = report.binary.best
    said = probability >= np.float32(threshold)
    assert report.to_dict()["binary"]["class"] == "car"
    assert (precision, recall) == pytest.approx(((true & said).sum() / said.sum(), (true & said).sum() / true.sum()))


def test_samples_are_read_ahead_in_threads_unless_they_draw(segmenter, dataset):
    """What draws from the one generator that all threads share is read here, one after the other."""
    readers, plain = set(), dataset.labels
    items = [item._replace(load=partial(noted, readers, item.load)) for item in dataset.items]
    ahead = evaluate(segmenter, Dataset(items, plain))
    assert threading.get_ident() not in readers
    readers.clear()
    once = evaluate(segmenter, Dataset(items, plain, lambda image, mask: (image, mask)))
    assert readers == {threading.get_ident()}
    assert once.to_dict() == ahead.to_dict()


def noted(readers, load):
    readers.add(threading.get_ident())
    return load()


def test_a_bad_file_stops_the_evaluation_and_its_threads(segmenter, dataset):
    before = threading.active_count()

    def broken():
        raise InputError("3.png cannot be read")

    items = [item if place != 3 else item._replace(load=broken) for place, item in enumerate(dataset.items)]
    with pytest.raises(InputError, match=r"3\.png cannot be read"):
        evaluate(segmenter, Dataset(items, dataset.labels))
    with pytest.raises(ZeroDivisionError):
        evaluate(SimpleNamespace(labels=segmenter.labels, predict=lambda *_: 1 / 0), dataset)
    assert threading.active_count() == before


def test_a_model_that_says_nan_is_named(dataset):
    logits = np.full((1, 3, 48, 64), np.nan, np.float32)
    with pytest.raises(InputError, match=r"0\.png is no number; .*--precision float32"):
        evaluate(Knowing(NAMES, logits), dataset)


def test_wrong_protocols_and_foreign_classes_are_refused(segmenter, dataset):
    with pytest.raises(InputError, match="Did you mean whole"):
        evaluate(segmenter, dataset, "hole")
    with pytest.raises(InputError, match=r"There is no class 'tee'\. Did you mean tree"):
        evaluate(segmenter, dataset, Protocol(classes=("tee",)))
    with pytest.raises(InputError, match="'sky' against road, car, tree"):
        evaluate(segmenter, Dataset(*open_source("scenes", "val", count=5, size=(32, 32))))
