"""What an encoding says of a place: its map, how wide and how much its own that is, and what hangs on it."""

import shutil
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load
from torch import nn

from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.inference.encoding import Encoding
from danet.inference.explanation import distinct, nearest
from danet.inference.prediction import Prediction
from danet.inference.segmenter import Segmenter
from danet.inference.segmenter import load as load_segmenter
from danet.models.attention import BranchTrace
from danet.models.compact import LEVELS, CompactPositionAttention
from danet.models.segmentation import create_model
from danet.ops.taken import position_attention_taken
from danet.viz.answer import answer, page_size
from danet.viz.attention_page import attention_page
from tests.conftest import NAMES
from tests.models.test_compact import naive as compact_position_attention
from tests.reference import channel_attention, channel_map, position_map, windows

AT, PLACE = (69, 49), 6 * 9 + 8  # in a picture of 70×50 pixels, which has 9×7 places


class NaivePosition(nn.Module):
    """Position attention by the equations, in float64, with minus infinity where no place can look."""

    def __init__(self, attention, removed):
        super().__init__()
        self.attention, self.removed = deepcopy(attention), torch.from_numpy(removed).ravel()

    def forward(self, features):
        if isinstance(self.attention, CompactPositionAttention):
            removed = self.removed.view(features.shape[-2:])
            return compact_position_attention(self.attention.double(), features.double(), removed)[0].to(features.dtype)
        query, key, value = (places.double() for places in self.attention.project(features))
        energy = (query @ key.mT).masked_fill(self.removed, -torch.inf)
        gathered = (energy.softmax(-1) @ value).mT.view_as(features)
        return (features + self.attention.gate * gathered).to(features.dtype)


class NaiveTaken(nn.Module):
    """Position attention by the equations, in float64, where each place does without the keys that `choose` marks."""

    def __init__(self, attention, choose):
        super().__init__()
        self.attention, self.choose = deepcopy(attention), choose

    def forward(self, features):
        compact = isinstance(self.attention, CompactPositionAttention)
        parts = self.attention.project(features, *([self.attention.pool(features)] if compact else []))
        query, key, value = (places[0].double() for places in parts)
        energy = query @ key.mT
        weights = energy.masked_fill(self.choose(query, key), -torch.inf).softmax(-1)
        return (features + self.attention.gate * (weights @ value).mT.view_as(features)).to(features.dtype)


def of_probabilities(prediction, probabilities):
    """The same prediction with other probabilities."""
    return replace(prediction, scores=probabilities, fusion="probabilities")


def most_attended(query, key):
    """The keys that take the first tenth of each place's map."""
    energy = query @ key.mT
    rank = energy.argsort(descending=True).argsort()
    return rank < round(0.1 * len(key))


@pytest.fixture
def picture():
    return np.random.Generator(np.random.Philox(3)).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.fixture
def segmenter(tiny):
    """Its maps are neither flat nor one-hot, and its gate is so open that they decide."""
    with torch.no_grad():
        tiny.model.head.position.query.weight.mul_(1000)
        tiny.model.head.position.gate.fill_(5)
    return Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")


@pytest.fixture
def compact(tiny):
    """A DRANet whose maps are neither flat nor one-hot."""
    torch.manual_seed(0)
    model = create_model("dranet", "resnet18", len(NAMES), out_indices=(2,), channels=32).eval()
    with torch.no_grad():
        model.head.position.query.weight.mul_(1000)
        model.head.position.gate.fill_(5)
        model.head.channel.gate.fill_(0.5)
        model.head.classifier.weight.mul_(1000)
    return Segmenter(model, tiny.labels, tiny.preprocess, "cpu", "float32")


@pytest.fixture
def encoding(segmenter, picture):
    return segmenter.encode(picture)


def made(query, key, labels=None) -> Encoding:
    """An encoding of given queries and keys (n×d), in one row of places, each one pixel wide and high."""
    query, key = (torch.as_tensor(places, dtype=torch.float32)[None] for places in (query, key))
    count = query.shape[1]
    labels = np.zeros(count, int) if labels is None else labels
    probabilities = torch.from_numpy(np.eye(len(NAMES), dtype=np.float32)[:, labels])[:, None]
    prediction = Prediction(
        np.zeros((1, count, 3), np.uint8), probabilities, LabelSpace("street", NAMES), "probabilities"
    )
    features, logsumexp = torch.zeros(1, 1, 1, count), (query @ key.mT).logsumexp(-1)
    trace = BranchTrace(0.5, torch.tensor([0.1]), (1, count), features, query, key, key, logsumexp)
    return Encoding(prediction, {"position": trace}, lambda removed: probabilities, lambda gathered, size: [])


def test_attention_is_a_row_and_a_column_of_the_whole_map(segmenter, encoding, picture):
    trace = encoding.traces["position"]
    whole = position_map(trace.query[0].double(), trace.key[0].double())
    rows = encoding.attention(AT, "from")
    assert rows.shape == trace.grid == (7, 9)
    assert rows.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(rows.ravel(), whole[PLACE].numpy(), atol=1e-6)
    assert np.allclose(encoding.attention(AT, "to").ravel(), whole[:, PLACE].numpy(), atol=1e-6)
    assert torch.equal(encoding.prediction.probabilities, segmenter(picture).probabilities)
    assert trace.gate == 5
    assert trace.share.item() > 0


def test_attention_to_centres_is_spread_over_their_windows(compact, picture):
    encoding = compact.encode(picture)
    trace = encoding.traces["position"]
    spread = torch.zeros(50, 7, 9, dtype=torch.float64)
    for centre, window in zip(spread, windows(7, 9, LEVELS), strict=True):
        centre[window] = 1 / centre[window].numel()
    whole = (position_map(trace.query[0].double(), trace.key[0].double()) @ spread.flatten(1)).numpy()
    assert 1.2 / 63 < whole[PLACE].max() < 0.9
    rows = encoding.attention(AT, "from")
    assert rows.shape == trace.grid == (7, 9)
    assert np.allclose(rows.ravel(), whole[PLACE], atol=1e-6)
    assert np.allclose(encoding.attention(AT, "to").ravel(), whole[:, PLACE], atol=1e-6)
    assert encoding.perplexity(AT) == pytest.approx(np.exp(-(whole[PLACE] * np.log(whole[PLACE])).sum()), rel=1e-4)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert encoding.similarity(63) == pytest.approx(((unit @ unit.T).sum() - 63) / (63 * 62), abs=1e-5)
    assert sum(encoding.by_class(AT).values()) == pytest.approx(1)
    view = encoding.view().position
    assert np.allclose(np.exp(view.query @ view.key.T - view.logsumexp[:, None]) @ view.pool, whole, atol=1e-5)


@pytest.mark.parametrize("rule", ["official", "paper"])
def test_compact_channels_are_rows_of_their_channel_map(compact, picture, rule):
    module = compact.model.head.channel
    module.rule = rule
    seen = []
    module.compact.register_forward_hook(lambda module, inputs, output: seen.extend((*inputs, output)))
    encoding = compact.encode(picture)
    features, key = (maps[0].double().flatten(1) for maps in seen)
    weights, after = channel_map(features, key, rule), features + 0.5 * channel_attention(features, key, key, rule)
    for index in (0, 31):
        view = encoding.channels(index)
        assert np.allclose(view.weights, weights[index].numpy(), atol=1e-5)
        assert np.allclose(view.before.ravel(), features[index].numpy())
        assert np.allclose(view.after.ravel(), after[index].numpy(), atol=1e-5)
    with pytest.raises(InputError, match="no channel 32"):
        encoding.channels(32)


@given(st.integers(1, 40), st.integers(0, 9), st.floats(0, 30))
def test_perplexity_is_the_exponential_of_the_entropy(count, seed, spread):
    query, key = np.random.Generator(np.random.Philox(seed)).normal(size=(2, count, 3)).astype(np.float32)
    found = made(spread * query, key).perplexity((count - 1, 0))
    weights = position_map(torch.from_numpy(spread * query).double(), torch.from_numpy(key).double())[-1]
    assert found == pytest.approx(torch.special.entr(weights).sum().exp().item(), rel=1e-4)


def test_perplexity_runs_from_one_place_to_all():
    assert made(np.zeros((12, 2)), np.ones((12, 2))).perplexity((5, 0)) == pytest.approx(12)
    assert made(200 * np.eye(12), np.eye(12)).perplexity((5, 0)) == pytest.approx(1)


@pytest.mark.parametrize("direction", ["from", "to"])
def test_by_class_splits_each_place_over_the_labels_of_its_pixels(encoding, direction):
    probabilities = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(1))
    encoding = replace(encoding, prediction=of_probabilities(encoding.prediction, probabilities))
    weights, labels = encoding.attention(AT, direction).astype(np.float64), encoding.prediction.labels
    pixels = [(y, x) for y in range(50) for x in range(70)]
    sizes = Counter((y * 7 // 50, x * 9 // 70) for y, x in pixels)
    expected = dict.fromkeys(NAMES, 0.0)
    for y, x in pixels:
        place = (y * 7 // 50, x * 9 // 70)
        assert encoding.place((x, y), (7, 9)) == 9 * place[0] + place[1]
        expected[NAMES[labels[y, x]]] += weights[place] / sizes[place] / weights.sum()
    found = encoding.by_class(AT, direction)
    assert found == pytest.approx(expected)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("backbone", "longest", "cell"),
    [("test_vit", None, 16), ("test_vit", 65, 32), ("eva02_tiny_patch14_224", None, 14)],
)
def test_a_place_of_a_padded_network_is_a_cell_of_its_pixels(tiny, backbone, longest, cell):
    torch.manual_seed(0)
    model = create_model("pam", backbone, len(NAMES), channels=16).eval()
    with torch.no_grad():
        model.head.attention.query.weight.mul_(1000)
    picture = np.random.Generator(np.random.Philox(3)).integers(0, 256, (68, 130, 3), np.uint8)
    preprocess = tiny.preprocess.model_copy(update={"longest": longest})
    encoding = Segmenter(model, tiny.labels, preprocess, "cpu", "float32").encode(picture)
    probabilities = torch.rand(3, 68, 130, generator=torch.Generator().manual_seed(1))
    encoding = replace(encoding, prediction=of_probabilities(encoding.prediction, probabilities))
    trace, labels = encoding.traces["position"], encoding.prediction.labels
    whole = position_map(trace.query[0].double(), trace.key[0].double()).unflatten(1, trace.grid).numpy()
    assert trace.grid == (-(-68 // cell), -(-130 // cell))
    pixels = [(y, x) for y in range(68) for x in range(130)]
    assert all(encoding.place((x, y), trace.grid) == y // cell * trace.grid[1] + x // cell for y, x in pixels)
    own = whole[1]
    assert np.allclose(encoding.attention((cell, cell - 1)), own, atol=1e-6)
    sizes = Counter((y // cell, x // cell) for y, x in pixels)
    expected = dict.fromkeys(NAMES, 0.0)
    for y, x in pixels:
        place = y // cell, x // cell
        expected[NAMES[labels[y, x]]] += own[place] / sizes[place]
    assert encoding.by_class((cell, cell - 1)) == pytest.approx(expected)
    assert encoding.view().position.span == encoding.span == pytest.approx((68 / cell, 130 / cell))


def test_a_place_that_nobody_looks_at_has_no_classes():
    encoding = made(np.full((4, 1), 200.0), [[1], [1], [1], [-1]], labels=[0, 1, 1, 2])
    assert encoding.by_class((0, 0)) == pytest.approx({"car": 2 / 3, "road": 1 / 3, "tree": 0})
    assert encoding.by_class((3, 0), "to") == dict.fromkeys(NAMES, 0.0)


def test_similarity_is_the_mean_cosine_of_pairs_of_rows(encoding):
    trace = encoding.traces["position"]
    rows = position_map(trace.query[0].double(), trace.key[0].double())
    pairs = [torch.cosine_similarity(rows[i], rows[j], dim=0) for i in range(63) for j in range(i)]
    assert encoding.similarity(count=1000) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-5)
    assert encoding.similarity(count=8) == encoding.similarity(count=8)
    assert encoding.similarity(count=8) != encoding.similarity(count=8, seed=1)


def test_similarity_is_one_for_equal_maps_and_zero_for_separate_ones():
    key = np.random.Generator(np.random.Philox(4)).normal(size=(12, 3))
    assert made(np.ones((12, 3)), key).similarity() == pytest.approx(1)
    assert made(200 * np.eye(12), np.eye(12)).similarity() == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match=r"^1 of 12 places make no pair"):
        made(np.eye(12), np.eye(12)).similarity(count=1)


@pytest.mark.parametrize("rule", ["official", "paper"])
def test_channels_are_rows_of_the_channel_map(segmenter, picture, rule):
    segmenter.model.head.channel.rule = rule
    seen = []
    segmenter.model.head.channel_in.register_forward_hook(lambda module, inputs, output: seen.append(output))
    encoding = segmenter.encode(picture)
    features = seen[0][0].double().flatten(1)
    weights = channel_map(features, features, rule)
    after = features + 0.5 * channel_attention(features, features, features, rule)
    assert weights[:7].amax() > 1 / 8
    for index in (0, 7):
        view = encoding.channels(index)
        assert view.before.shape == view.after.shape == (7, 9)
        assert np.allclose(view.weights, weights[index].numpy(), atol=1e-5)
        assert np.allclose(view.before.ravel(), features[index].numpy())
        assert np.allclose(view.after.ravel(), after[index].numpy(), atol=1e-5)


@pytest.mark.parametrize("head", ["danet", "dranet", "pam"])
@pytest.mark.parametrize("longest", [None, 48])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_take_away_agrees_with_minus_infinity_in_the_equations(tiny, picture, head, longest, precision):
    torch.manual_seed(4)
    model = create_model(head, "resnet18", len(NAMES), out_indices=(2,), channels=32).eval()
    name = "attention" if head == "pam" else "position"
    attention = getattr(model.head, name)
    with torch.no_grad():
        # A mean without a tenth of its places is nearly the same.
        attention.query.weight.mul_(3000 if head == "dranet" else 1000)
        attention.gate.fill_(20 if head == "dranet" else 5)
        model.head.classifier.weight.mul_(100)
    preprocess = tiny.preprocess.model_copy(update={"longest": longest})
    encoding = Segmenter(model, tiny.labels, preprocess, "cpu", precision).encode(picture)
    taken = []
    found = replace(encoding, without=lambda removed: taken.append(removed) or encoding.without(removed)).take_away(AT)
    weights, count = encoding.attention(AT), round(0.1 * encoding.attention(AT).size)
    assert weights.shape == ((7, 9) if longest is None else (5, 6))
    assert np.array_equal(taken[0], found.removed.ravel())
    assert found.removed.sum() == taken[1].sum() == count
    assert not (taken[0] & taken[1]).any()
    assert weights[found.removed].min() >= weights[~found.removed].max()
    assert found.attention == pytest.approx(weights[found.removed].sum())
    for removed, probabilities in zip((np.zeros_like(taken[0]), *taken), found[2:], strict=True):
        naive = deepcopy(model)
        setattr(naive.head, name, NaivePosition(attention, removed))
        expected = Segmenter(naive, tiny.labels, preprocess, "cpu", precision)(picture).probabilities
        assert np.allclose(probabilities, expected[:, AT[1], AT[0]], atol=1e-5 if precision == "float32" else 0.02)
    assert min(np.abs(found.after - other).max() for other in (found.before, found.control)) > 2e-3


@pytest.fixture(params=["danet", "dranet", "pam"])
def open_model(request):
    """A model whose labels hang on what position attention gathers."""
    torch.manual_seed(4)
    model = create_model(request.param, "resnet18", len(NAMES), out_indices=(2,), channels=32).eval()
    attention = model.head.attention if request.param == "pam" else model.head.position
    with torch.no_grad():
        attention.query.weight.mul_(1000)
        attention.gate.fill_(1)
        model.head.classifier.weight.mul_(100)
        model.head.classifier.bias.zero_()
    return model


def labelled(model, tiny, picture, attention=None):
    """What the model predicts, with another position attention."""
    model = deepcopy(model)
    if attention is not None:
        setattr(model.head, "attention" if hasattr(model.head, "attention") else "position", attention)
    return Segmenter(model, tiny.labels, tiny.preprocess, "cpu", "float32")(picture)


def own_attention(model):
    return model.head.attention if hasattr(model.head, "attention") else model.head.position


def same(found, expected):
    """Labels may differ where two classes are as probable."""
    return np.mean(found != expected) < 2e-3


def test_labels_of_other_gates_are_those_of_a_model_that_has_them(open_model, tiny, picture):
    position = Segmenter(open_model, tiny.labels, tiny.preprocess, "cpu", "float32").encode(picture).view().position
    assert position.gates == (0, 0.5, 1, 2, 4)
    for factor, found in zip(position.gates, position.gate_labels, strict=True):
        attention = deepcopy(own_attention(open_model))
        with torch.no_grad():
            attention.gate.mul_(factor)
        assert same(found, labelled(open_model, tiny, picture, attention).labels)
    assert not same(position.gate_labels[0], position.gate_labels[2])
    assert not same(position.gate_labels[2], position.gate_labels[4])


def test_labels_without_each_places_most_attended_keys_agree_with_minus_infinity(open_model, tiny, picture):
    segmenter = Segmenter(open_model, tiny.labels, tiny.preprocess, "cpu", "float32")
    view = segmenter.encode(picture).view()

    def others(query, key):
        _, random = position_attention_taken(query, key, torch.eye(len(key)).double())
        return random == 0

    assert view.position.taken_share == 0.1
    for found, choose in ((view.position.taken, most_attended), (view.position.control, others)):
        expected = labelled(open_model, tiny, picture, NaiveTaken(own_attention(open_model), choose))
        assert same(found.labels, expected.labels)
        assert np.abs(found.confidence - 255 * expected.confidence).max() <= 1
    assert not same(view.position.taken.labels, view.labels)


def test_features_and_values_are_drawn_by_the_features_first_three_components(open_model, tiny, picture):
    seen = []
    own_attention(open_model).value.register_forward_hook(lambda module, inputs, output: seen.append(output))
    segmenter = Segmenter(open_model, tiny.labels, tiny.preprocess, "cpu", "float32")
    encoding = segmenter.encode(picture)
    trace, position = encoding.traces["position"], encoding.view().position
    features = trace.features[0].double().flatten(1).T.numpy()
    value = trace.value[0].double().numpy()
    centred = features - features.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:3].T
    directions *= np.sign(directions[np.abs(directions).argmax(0), range(3)])
    low, high = np.quantile(centred @ directions, [0.01, 0.99], axis=0)
    assert np.allclose(position.features, (centred @ directions - low) / (high - low), atol=1e-4)
    expected = (value - value.mean(0)) @ directions / (high - low) + 0.5
    assert np.allclose(position.value, expected, atol=1e-4)
    weights = position_map(trace.query[0].double(), trace.key[0].double()).numpy()
    assert np.allclose(position.gathered, weights @ expected, atol=1e-4)
    # A sum that the map weighs is what is gathered, by the same components.
    assert np.allclose(weights @ expected, (weights @ value - value.mean(0)) @ directions / (high - low) + 0.5)


def test_at_most_twelve_channels_are_shown_and_no_two_alike():
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(20, 500, generator=generator) * 1.2 ** torch.arange(20)[:, None]
    near = 0.5 * own + 0.1 * torch.randn(20, 500, generator=generator)
    assert distinct(torch.cat([near, -own, torch.ones(3, 500)])) == [*range(39, 27, -1)]
    assert distinct(torch.cat([near[:2], own[:2], torch.ones(3, 500)])) == [3, 2]
    assert distinct(torch.ones(3, 500)) == [0]


@pytest.mark.parametrize("head", ["danet", "dranet", "cam"])
def test_channels_shown_are_those_of_the_encoding(tiny, picture, head):
    torch.manual_seed(0)
    model = create_model(head, "resnet18", len(NAMES), out_indices=(2,), channels=32).eval()
    encoding = Segmenter(model, tiny.labels, tiny.preprocess, "cpu", "float32").encode(picture)
    trace, shown = encoding.traces["channel"], encoding.view().channel
    features = trace.features[0].double().flatten(1)
    key = features if trace.key is None else trace.key[0].double()
    assert (shown.total, shown.rule, shown.gate) == (32, "official", 0)
    assert 1 < len(shown.indices) <= 12
    energy = features[shown.indices] @ key.T
    assert np.allclose(shown.energy, energy.numpy(), rtol=1e-5)
    for number, index in enumerate(shown.indices):
        one = encoding.channels(index)
        assert np.array_equal(shown.before[number], one.before)
        assert np.array_equal(shown.after[number], one.after)
        weights = (-energy[number]).softmax(0)
        assert [weight for _, weight in shown.draws_on[number]] == sorted(one.weights, reverse=True)[:5]
        assert all(weights[other].item() == pytest.approx(weight, abs=1e-4) for other, weight in shown.draws_on[number])


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_a_pixel_of_the_page_is_the_nearest_of_the_image(height, width, side):
    maps = torch.arange(height * width).view(1, height, width)
    found = nearest(maps, (side, width))[0]
    for y, line in enumerate(found):
        middle = (y + Fraction(1, 2)) * height / side
        assert torch.equal(line, maps[0, int(middle)])
    assert torch.equal(nearest(maps, (height, side))[0].mT, nearest(maps.mT, (side, height))[0])


@pytest.mark.parametrize("head", ["danet", "dranet", "pam", "cam", "fcn"])
def test_an_answer_tells_of_the_branches_that_a_model_has(tiny, head):
    model = create_model(head, "resnet18", len(NAMES), out_indices=(2,), channels=8)
    segmenter = Segmenter(model, tiny.labels, tiny.preprocess, "cpu", "float32")
    for height, width in ((32, 32), (33, 1500)):
        encoding = segmenter.encode(np.zeros((height, width, 3), np.uint8))
        view, body = encoding.view(), answer(encoding.view())
        assert view.labels.shape == page_size(height, width, (1, 1))
        assert (view.position is not None) == (head in ("danet", "dranet", "pam"))
        assert (view.channel is not None) == (head in ("danet", "dranet", "cam"))
        assert ("query" in load(body)) == (view.position is not None)
        assert body == answer(segmenter.encode(np.zeros((height, width, 3), np.uint8)).view())


def test_an_image_of_a_single_place_has_a_view(tiny):
    model = create_model("pam", "resnet18", len(NAMES), output_stride=32, channels=8)
    encoding = Segmenter(model, tiny.labels, tiny.preprocess, "cpu", "float32").encode(np.zeros((32, 32, 3), np.uint8))
    view = encoding.view()
    assert view.position.grid == (1, 1)
    assert view.position.similarity == 1
    assert np.array_equal(view.position.taken.labels, view.labels)


def test_a_view_says_which_model_it_is_of(tiny_folder, tmp_path, picture):
    (tmp_path / "street").mkdir()
    shutil.copytree(tiny_folder, tmp_path / "street" / "best")
    assert load_segmenter(tiny_folder, "cpu").encode(picture).view().model == ("tiny", "danet", "resnet18", "")
    assert load_segmenter(tmp_path / "street" / "best", "cpu").facts.name == "street"
    toy = load_segmenter(None, "cpu").encode(picture).view().model
    assert toy[:3] == load_segmenter("street-tiny", "cpu").facts[:3] == ("street-tiny", "danet", "resnet18")
    assert "toy" in toy.note


def test_a_shut_gate_makes_taking_away_do_nothing(segmenter, picture):
    nn.init.zeros_(segmenter.model.head.position.gate)
    _, _, before, after, control = segmenter.encode(picture).take_away(AT)
    assert np.array_equal(before, after)
    assert np.array_equal(before, control)


@given(st.integers(2, 40), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_at_least_one_place_is_taken_away_and_never_all(count, share):
    taken = []
    encoding = made(np.ones((count, 1)), np.arange(count)[:, None])
    encoding = replace(encoding, without=lambda removed: taken.append(removed) or encoding.prediction.probabilities)
    removed = encoding.take_away((0, 0), share).removed.ravel()
    assert removed.sum() == np.clip(round(share * count), 1, count - 1)
    assert removed[-removed.sum() :].all()
    assert taken[1].sum() == min(removed.sum(), count - removed.sum())


def test_an_encoding_runs_the_backbone_once_and_stays_valid(segmenter, picture):
    calls = []
    segmenter.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    encoding = segmenter.encode(picture)
    first = encoding.take_away(AT), encoding.attention(AT), encoding.channels(3)
    assert len(calls) == 1
    segmenter.encode(255 - picture).take_away((0, 0))
    again = encoding.take_away(AT), encoding.attention(AT), encoding.channels(3)
    assert len(calls) == 2
    for one, other in zip((*first[0], first[1], *first[2]), (*again[0], again[1], *again[2]), strict=True):
        assert np.array_equal(one, other)


def test_a_view_holds_what_the_maps_follow_from(encoding, picture):
    view = encoding.view("street.png")
    position = view.position
    assert view.name == "street.png"
    assert np.array_equal(view.image, picture)
    assert np.array_equal(view.labels, encoding.prediction.labels)
    assert np.array_equal(view.confidence, np.rint(255 * encoding.prediction.confidence))
    assert view.shares == encoding.prediction.shares
    assert (view.space, position.grid, position.gate) == (encoding.prediction.space, (7, 9), 5)
    assert position.share == encoding.traces["position"].share.item()
    assert position.similarity == encoding.similarity()
    row = np.exp(position.query[PLACE] @ position.key.T - position.logsumexp[PLACE])
    assert np.allclose(row, encoding.attention(AT).ravel(), atol=1e-6)


def test_the_page_is_one_file_that_names_the_image(encoding, tmp_path):
    path = encoding.save_html(tmp_path / "pages" / "a.html", "Straße.png")
    assert path == tmp_path / "pages" / "a.html"
    assert path.read_text(encoding="utf-8") == attention_page(
        [encoding.view("Straße.png")], "What the pixels of Straße.png attend to"
    )
    assert list(path.parent.iterdir()) == [path]


ASKED = {
    "position": [
        lambda encoding: encoding.attention((0, 0)),
        lambda encoding: encoding.perplexity((0, 0)),
        lambda encoding: encoding.by_class((0, 0)),
        lambda encoding: encoding.similarity(),
        lambda encoding: encoding.take_away((0, 0)),
    ],
    "channel": [lambda encoding: encoding.channels(0)],
}


@pytest.mark.parametrize(
    ("head", "branches"),
    [
        ("danet", {"position", "channel"}),
        ("dranet", {"position", "channel"}),
        ("pam", {"position"}),
        ("cam", {"channel"}),
        ("fcn", ()),
        ("se", ()),
    ],
)
def test_each_head_tells_of_the_branches_that_it_has(tiny, picture, head, branches):
    model = create_model(head, "resnet18", len(NAMES), out_indices=(2,), channels=8)
    encoding = Segmenter(model, tiny.labels, tiny.preprocess, "cpu", "float32").encode(picture)
    for branch, questions in ASKED.items():
        for ask in questions:
            if branch in branches:
                ask(encoding)
            else:
                with pytest.raises(InputError, match=f"^This model has no {branch} attention; its head must be danet"):
                    ask(encoding)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda encoding: encoding.attention((-1, 0)), r"\(-1, 0\) is outside the image, which is 70×50"),
        (lambda encoding: encoding.perplexity((70, 0)), r"\(70, 0\) is outside the image, which is 70×50"),
        (lambda encoding: encoding.by_class((0, 50)), r"\(0, 50\) is outside the image, which is 70×50"),
        (lambda encoding: encoding.take_away((0, -1)), r"\(0, -1\) is outside the image, which is 70×50"),
        (lambda encoding: encoding.attention((0, 0), "at"), "direction is 'at'; it must be 'from' or 'to'"),
        (lambda encoding: encoding.channels(8), "no channel 8; this model has the channels 0 to 7"),
        (lambda encoding: encoding.channels(-1), "no channel -1; this model has the channels 0 to 7"),
        (lambda encoding: encoding.take_away((0, 0), 0), "share is 0; it must be above 0 and below 1"),
        (lambda encoding: encoding.take_away((0, 0), 1.0), "share is 1.0; it must be above 0 and below 1"),
        (lambda encoding: encoding.take_away((0, 0), float("nan")), "share is nan; it must be above 0 and below 1"),
        (lambda _: made([[1.0]], [[1.0]]).take_away((0, 0)), "a single place, which cannot be taken away"),
        (lambda _: made([[1.0]], [[1.0]]).similarity(), "1 of 1 places make no pair"),
    ],
)
def test_wrong_questions_are_one_line(encoding, ask, words):
    with pytest.raises(InputError, match=words) as caught:
        ask(encoding)
    assert "\n" not in str(caught.value)
