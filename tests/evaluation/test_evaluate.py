"""One protocol, one report: its numbers are those of the predictions."""

import numpy as np
import pytest

from danet.data.dataset import Dataset
from danet.data.sources import open_source
from danet.errors import InputError
from danet.evaluation.evaluate import evaluate
from danet.evaluation.metrics import Scores, confusion_matrix
from danet.inference.segmenter import Segmenter


@pytest.fixture
def segmenter(tiny):
    return Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")


@pytest.fixture
def dataset(own_data):
    return Dataset(*open_source("folder", "train", root=own_data))


def test_a_report_adds_up_the_predictions(segmenter, dataset):
    told = []
    report = evaluate(segmenter, dataset, region=lambda truth: truth == 1, progress=lambda *now: told.append(now))
    total, apart = np.zeros((3, 3), np.int64), np.zeros((3, 3), np.int64)
    for index, row in enumerate(report.images):
        sample = dataset[index]
        truth = sample.mask.numpy()
        predicted = segmenter(sample.image.permute(1, 2, 0).numpy()).labels
        confusion = confusion_matrix(predicted, truth, 3)
        scores = Scores(("a", "b", "c"), confusion)
        assert row == (sample.name, scores.pixel_accuracy, scores.miou)
        total += confusion
        apart[1] += confusion[1]
    assert np.array_equal(report.scores.confusion, total)
    assert np.array_equal(report.region.confusion, apart)
    assert report.majority == 1
    assert told == [(done, 8) for done in range(1, 9)]
    worst = report.worst(3)
    assert [image.pixel_accuracy for image in worst] == sorted(image.pixel_accuracy for image in report.images)[:3]
    found = report.to_dict()
    assert (found["protocol"], found["context"], found["majority"]) == ("whole", report.region.pixel_accuracy, 1)


def test_protocols_differ_where_the_size_rule_acts(tiny, dataset):
    ruled = Segmenter(tiny.model, tiny.labels, tiny.preprocess.model_copy(update={"longest": 40}), "cpu", "float32")
    whole, original = (evaluate(ruled, dataset, protocol) for protocol in ("whole", "whole-original"))
    assert not np.array_equal(whole.scores.confusion, original.scores.confusion)
    plain = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    assert np.array_equal(evaluate(plain, dataset).scores.confusion, original.scores.confusion)


def test_wrong_protocols_and_foreign_classes_are_refused(segmenter, dataset):
    with pytest.raises(InputError, match="Did you mean whole"):
        evaluate(segmenter, dataset, "hole")
    with pytest.raises(InputError, match="'sky' against road, car, tree"):
        evaluate(segmenter, Dataset(*open_source("scenes", "val", count=5, size=(32, 32))))
