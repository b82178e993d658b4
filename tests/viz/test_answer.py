"""The answer, read back by the library of its format: what it says is what the view holds."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load

from danet.data.labels import LabelSpace
from danet.viz.answer import AttentionView, ChannelMaps, LabelMap, ModelFacts, PositionView, answer, halves, page_size

NASTY = "</script> \"'& Straße ü 道路"
SPACE = LabelSpace("two", ("road", NASTY))
GENERATOR = np.random.default_rng(0)


def numbers(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * GENERATOR.normal(size=shape)).astype(np.float32)


def label_map(height: int, width: int) -> LabelMap:
    return LabelMap(
        GENERATOR.integers(0, 2, (height, width), np.uint8), GENERATOR.integers(0, 256, (height, width), np.uint8)
    )


def view(scale: float = 3.0, pool: np.ndarray | None = None, **changes) -> AttentionView:
    """An image of 20×30 pixels in 2×3 places of 4 channels of query and key, with three channels shown of 9."""
    keys = 6 if pool is None else len(pool)
    position = PositionView(
        gate=-0.25,
        share=0.5,
        grid=(2, 3),
        span=(2.0, 2.9),
        similarity=0.75,
        query=numbers(6, 4, scale=scale),
        key=numbers(keys, 4, scale=scale) + 40,
        logsumexp=numbers(6) + 100,
        pool=pool,
        features=numbers(6, 3),
        value=numbers(keys, 3),
        gathered=numbers(6, 3),
        gates=(0.0, 1.0),
        gate_labels=GENERATOR.integers(0, 2, (2, 20, 30), np.uint8),
        taken_share=0.1,
        taken=label_map(20, 30),
        control=label_map(20, 30),
    )
    channel = ChannelMaps(
        gate=0.5,
        share=0.1,
        rule="official",
        total=9,
        indices=[7, 0, 2],
        draws_on=[[(1, 0.75), (3, 0.25)]] * 3,
        energy=numbers(3, 9, scale=1000),
        before=np.stack([numbers(2, 3), numbers(2, 3, scale=50), np.ones((2, 3), np.float32)]),
        after=np.stack([numbers(2, 3), numbers(2, 3, scale=90), np.ones((2, 3), np.float32)]),
    )
    image = np.full((20, 30, 3), (200, 60, 20), np.uint8)
    own = label_map(20, 30)
    shares = {"road": 0.25, NASTY: 0.75}
    facts = ModelFacts("street-tiny", "danet", "resnet18", "A toy.")
    made = AttentionView(NASTY, image, own.labels, own.confidence, shares, SPACE, facts, position, channel)
    return made._replace(**changes)


def read(body: bytes, tmp_path) -> tuple[dict, dict[str, np.ndarray]]:
    path = tmp_path / "answer.safetensors"
    path.write_bytes(body)
    with safe_open(path, "numpy") as file:
        assert set(file.metadata()) == {"danet"}
        return json.loads(file.metadata()["danet"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_an_answer_reads_back_as_what_the_view_holds(tmp_path):
    made = view()
    facts, tensors = read(answer(made), tmp_path)
    assert facts == {
        "format": 1,
        "name": NASTY,
        "size": [20, 30],
        "original_size": [20, 30],
        "classes": [
            {"name": "road", "colour": "#800000", "share": 0.25},
            {"name": NASTY, "colour": "#008000", "share": 0.75},
        ],
        "model": {"name": "street-tiny", "head": "danet", "backbone": "resnet18", "note": "A toy."},
        "position": {
            "gate": -0.25,
            "share": 0.5,
            "grid": [2, 3],
            "span": [2.0, 2.9],
            "similarity": 0.75,
            "windows": None,
            "gates": [0.0, 1.0],
            "taken": 0.1,
        },
        "channel": {
            "gate": 0.5,
            "share": 0.1,
            "rule": "official",
            "grid": [2, 3],
            "maps": [{"index": index, "draws_on": [[1, 0.75], [3, 0.25]]} for index in (7, 0, 2)],
            "total": 9,
        },
    }
    position, channel = made.position, made.channel
    exact = {
        "labels": made.labels,
        "confidence": made.confidence,
        "gate_labels": position.gate_labels,
        "taken_labels": position.taken.labels,
        "taken_confidence": position.taken.confidence,
        "control_labels": position.control.labels,
        "control_confidence": position.control.confidence,
        "features": position.features.astype(np.float16),
        "value": position.value.astype(np.float16),
        "gathered": position.gathered.astype(np.float16),
        "channel_energy": channel.energy,
    }
    for name, expected in exact.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected)
    others = {"picture", "query", "query_rest", "key", "key_rest", "logsumexp", "channels", "channels_after"}
    assert set(tensors) == set(exact) | others
    assert load(answer(made)).keys() == tensors.keys()


def test_the_map_that_follows_is_that_of_the_whole_numbers(tmp_path):
    """Relative to a row's largest weight; float16 alone is off by a hundred times as much."""
    for scatter, error_of_both, error_of_one in ((5, 2e-5, 1e-3), (64, 1e-4, 1e-2)):
        made = view()
        query, key = numbers(400, 64), numbers(400, 64, scale=scatter / 8) + 3
        energy = query.astype(np.float64) @ key.T.astype(np.float64)
        logsumexp = np.log(np.exp(energy - energy.max(1, keepdims=True)).sum(1)) + energy.max(1)
        position = made.position._replace(query=query, key=key, logsumexp=logsumexp.astype(np.float32))
        _, found = read(answer(made._replace(position=position)), tmp_path)
        exact, half = np.exp(energy - logsumexp[:, None]), [found[name].astype(np.float64) for name in ("query", "key")]
        whole = [part + found[f"{name}_rest"] for part, name in zip(half, ("query", "key"), strict=True)]

        def error(query: np.ndarray, key: np.ndarray, like: np.ndarray = exact) -> float:
            weights = np.exp((rows := query @ key.T) - rows.max(1, keepdims=True))
            return float((np.abs(weights / weights.sum(1, keepdims=True) - like) / like.max(1, keepdims=True)).max())

        assert error(*whole) < error_of_both
        assert error(*half) > error_of_one
        # logsumexp belongs to the centred keys.
        columns = np.exp(whole[0] @ whole[1].T - found["logsumexp"][:, None])
        assert (np.abs(columns - exact) / exact.max(1, keepdims=True)).max() < 10 * error_of_both


def test_a_number_is_the_sum_of_its_halves():
    values = np.concatenate([numbers(4000, scale=10.0**power) for power in range(-3, 4)])[:, None]
    parts = halves("query", values)
    found = parts["query"].astype(np.float64) + parts["query_rest"]
    assert (np.abs(found - values) <= np.maximum(2.0**-22 * np.abs(values), 2.0**-25)).all()


def test_channels_are_between_their_own_extremes_before_and_after(tmp_path):
    made = view()
    _, tensors = read(answer(made), tmp_path)
    for before, after, shown, shown_after in zip(
        made.channel.before, made.channel.after, tensors["channels"], tensors["channels_after"], strict=True
    ):
        low, extent = before.min(), np.ptp(before)
        if extent == 0:
            assert not shown.any()
            continue
        assert (shown.min(), shown.max()) == (0, 255)
        assert np.abs(shown / 255 - (before - low) / extent).max() <= 0.5 / 255 + 1e-6
        assert np.abs(shown_after / 255 - np.clip((after - low) / extent, 0, 1)).max() <= 0.5 / 255 + 1e-6


def test_a_large_image_is_a_smaller_picture_in_colour(tmp_path):
    assert page_size(1500, 2048, (24, 32)) == (750, 1024)
    assert page_size(100, 1024, (4, 32)) == (100, 1024)
    assert page_size(32, 12000, (4, 128)) == (4, 1024)
    image = np.full((60, 90, 3), (200, 60, 20), np.uint8)
    facts, tensors = read(answer(view(image=image)), tmp_path)
    assert (facts["size"], facts["original_size"]) == ([20, 30], [60, 90])
    with Image.open(BytesIO(tensors["picture"].tobytes())) as picture:
        assert (picture.format, picture.size) == ("JPEG", (30, 20))
        assert np.abs(np.asarray(picture).astype(int) - (200, 60, 20)).max() <= 3


def test_windows_of_places_are_told_as_rectangles(tmp_path):
    pool = np.array([[1 / 6] * 6, [0, 0.5, 0, 0, 0.5, 0]], np.float32)
    facts, tensors = read(answer(view(pool=pool)), tmp_path)
    assert facts["position"]["windows"] == [[0, 2, 0, 3], [0, 2, 1, 2]]
    assert tensors["key"].shape == (2, 4)


def test_a_model_without_attention_has_an_answer_too(tmp_path):
    facts, tensors = read(answer(view(position=None, channel=None)), tmp_path)
    assert (facts["position"], facts["channel"]) == (None, None)
    assert set(tensors) == {"picture", "labels", "confidence"}
    _, tensors = read(answer(view(position=None)), tmp_path)
    assert set(tensors) == {"picture", "labels", "confidence", "channels", "channels_after", "channel_energy"}


@pytest.mark.parametrize("name", ["query", "key"])
@pytest.mark.parametrize("value", [np.inf, np.nan, 1e6])
def test_a_network_that_diverged_has_no_answer(name, value):
    made = view()
    values = getattr(made.position, name).copy()
    values[3, 2] = value
    with pytest.raises(ValueError, match=rf"the view's {name} has values that are not finite, or beyond 65,504"):
        answer(made._replace(position=made.position._replace(**{name: values})))
