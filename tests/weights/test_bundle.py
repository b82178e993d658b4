"""Bundles: what is written is read, bit for bit; what is missing or altered is named; nothing is ever half there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError

from danet.config import ModelConfig
from danet.errors import InputError
from danet.inference.segmenter import Segmenter
from danet.weights import bundle as bundles
from danet.weights.bundle import CARD, CONFIG, WEIGHTS, load_bundle, save_bundle

GOLDEN = Path(__file__).parent.parent / "golden" / "bundles"


@pytest.mark.parametrize("released", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def test_every_format_ever_released_loads_for_good(released):
    """Written by the version that had the format; the .npz beside holds what that version computed."""
    bundle, golden = load_bundle(GOLDEN / released), np.load(GOLDEN / f"{released}.npz")
    images = torch.from_numpy(np.random.Generator(np.random.Philox(5)).standard_normal((1, 3, 50, 67), np.float32))
    with torch.inference_mode():
        logits = bundle.model(images).logits[..., ::4, ::4].numpy()
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4)
    assert np.unique(golden["labels"]).tolist() == [0, 1, 2]
    picture = np.random.Generator(np.random.Philox(6)).integers(0, 256, (72, 110, 3), np.uint8)
    labels = Segmenter(bundle.model, bundle.labels, bundle.preprocess, "cpu", "float32")(picture).labels
    assert (labels[::2, ::2] == golden["labels"]).mean() > 0.999


def test_format_1_keeps_every_setting():
    bundle = load_bundle(GOLDEN / "format-1")
    assert bundle.model_config == ModelConfig(
        backbone="resnet18",
        num_classes=3,
        output_stride=8,
        out_indices=(1,),
        channels=8,
        align_corners=True,
        channel_rule="paper",
        dropout=0.2,
    )
    assert (bundle.labels.name, bundle.labels.names) == ("street", ("road", "car", "tree"))
    assert bundle.labels.colours == ((128, 64, 128), (0, 0, 142), (107, 142, 35))
    assert (bundle.labels.ids, bundle.labels.ignore) == ({7: 0, 26: 1, 21: 2, 300: 2}, (0, 255))
    assert (bundle.preprocess.mean, bundle.preprocess.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert (bundle.preprocess.longest, bundle.preprocess.range) == (96, (0, 255))
    assert bundle.scores == {"miou": 0.5, "protocol": "whole"}


def test_the_card_is_one_that_the_hub_reads(tiny, tmp_path):
    published = {"published": {"miou": 0.5, "protocol": "whole: one scale"}}
    config = tiny.model_config.model_copy(update={"output_stride": None})
    save_bundle(tmp_path / "b", replace(tiny, model_config=config, scores=published, provenance={"licence": "mit"}))
    card = ModelCard.load(tmp_path / "b" / CARD)
    assert card.data.to_dict() == {
        "library_name": "danet",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "danet", "resnet18"],
        "license": "mit",
    }
    assert card.text.strip().startswith("# danet on resnet18, street\n")
    assert "- published: miou 0.5; protocol whole: one scale\n" in card.text
    assert "output stride 8." in card.text


def test_others_may_read_it_and_no_path_of_this_machine_is_in_it(tiny, tmp_path):
    config = tiny.model_config.model_copy(update={"pretrained": "/home/me/resnet18.safetensors"})
    save_bundle(tmp_path / "b", replace(tiny, model_config=config))
    assert "/home/me" not in (tmp_path / "b" / CONFIG).read_text()
    assert load_bundle(tmp_path / "b").model_config.pretrained is True
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (tmp_path / "b").iterdir())


def test_round_trip_is_bit_equal(tiny, tiny_folder):
    loaded = load_bundle(tiny_folder)
    assert (loaded.model_config, loaded.labels, loaded.preprocess) == (tiny.model_config, tiny.labels, tiny.preprocess)
    assert (loaded.scores, loaded.provenance) == (tiny.scores, tiny.provenance)
    for (name, expected), (found_name, found) in zip(
        tiny.model.state_dict().items(), loaded.model.state_dict().items(), strict=True
    ):
        assert name == found_name
        assert torch.equal(expected, found), name
    assert not loaded.model.training
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    (tiny_folder / WEIGHTS).write_bytes(bytes((tiny_folder / WEIGHTS).stat().st_size))
    assert torch.equal(loaded.model.head.classifier.weight, tiny.model.head.classifier.weight), "mapped from the file"
    assert "road, car, tree" in (tiny_folder / CARD).read_text()


def test_half_precision_weights_are_read(tiny, tmp_path):
    images = torch.randn(1, 3, 48, 64)
    expected = tiny.model(images).logits
    tiny.model.half()
    save_bundle(tmp_path / "half", tiny)
    found = load_bundle(tmp_path / "half").model(images).logits
    assert found.dtype == torch.float32
    assert (expected - found).abs().max() < 0.02 * expected.abs().max()


def test_saving_again_replaces_the_whole(tiny, tiny_folder):
    (tiny_folder / "stray").touch()
    save_bundle(tiny_folder, tiny)
    assert sorted(path.name for path in tiny_folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_save_that_fails_leaves_what_was_there(error, tiny, tiny_folder, monkeypatch):
    before = load_bundle(tiny_folder)

    def full(*_):
        raise error

    monkeypatch.setattr(bundles, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_bundle(tiny_folder, tiny)
    assert [path.name for path in tiny_folder.parent.iterdir()] == [tiny_folder.name]
    assert load_bundle(tiny_folder).model_config == before.model_config


def edit(folder, **changes):
    """Edit config.json as one who seals it again would."""
    config = {name: value for name, value in json.loads((folder / CONFIG).read_text()).items() if name != "seal"}
    config |= changes
    (folder / CONFIG).write_text(json.dumps(config | {"seal": bundles._seal(config)}))


def widen(folder, channels):
    """Describe a head that no machine can hold."""
    edit(folder, model=json.loads((folder / CONFIG).read_text())["model"] | {"channels": channels})


def rename_a_class(folder):
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace('"car"', '"cat"'))


def flip_a_byte(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, ("is no folder",)),
        (lambda folder: (folder / WEIGHTS).unlink(), (WEIGHTS, "or if danet fetched it, remove the folder /")),
        (lambda folder: (folder / CONFIG).unlink(), (CONFIG, "copy the bundle again")),
        (flip_a_byte, (WEIGHTS, "altered or cut short")),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"short"), (WEIGHTS, "altered or cut short")),
        (lambda folder: (folder / CONFIG).write_text("{"), (CONFIG, "is not JSON")),
        (lambda folder: (folder / CONFIG).write_text("[]"), (CONFIG, "holds list")),
        (lambda folder: (folder / CONFIG).write_text('{"model_type": "bert"}'), (CONFIG, "is no bundle of danet's")),
        (rename_a_class, (CONFIG, "was altered")),
        (lambda folder: edit(folder, sha256=None), (CONFIG, "sha256 is None")),
        (lambda folder: edit(folder, labels={}), (CONFIG, "names is None")),
        (lambda folder: edit(folder, format=2), ("format 2", "reads 1")),
        (lambda folder: edit(folder, labels={"name": "two", "names": ["a", "b"]}), ("2 classes", "model of 3")),
        (lambda folder: edit(folder, preprocess={"names": ["near infrared"]}), ("1 channels", "model of 3")),
        (lambda folder: edit(folder, model={"head": "dane"}), ("model.head is 'dane'",)),
        (lambda folder: edit(folder, model={"backbone": "resnet18", "num_classes": 3}), (WEIGHTS, "does not fit")),
        (lambda folder: widen(folder, 10**9), (WEIGHTS, "does not fit")),
        (lambda folder: widen(folder, 10**30), (WEIGHTS, "does not fit")),
        (lambda folder: edit(folder, preprocess={"men": [0.0]}), ("preprocess.men", "Did you mean preprocess.mean?")),
    ],
)
def test_damage_is_named_in_one_line(damage, words, tiny_folder):
    damage(tiny_folder)
    with pytest.raises(InputError) as caught:
        load_bundle(tiny_folder)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
