"""Bundles: what is written is read, bit for bit; what is missing or altered is named; nothing is ever half there."""

import json
import shutil

import pytest
import torch

from danet.errors import InputError
from danet.weights import bundle as bundles
from danet.weights.bundle import CARD, CONFIG, WEIGHTS, load_bundle, save_bundle


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


def test_a_save_that_fails_leaves_what_was_there(tiny, tiny_folder, monkeypatch):
    before = load_bundle(tiny_folder)

    def full(*_):
        raise OSError(28, "No space left on device")

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
        (lambda folder: (folder / WEIGHTS).unlink(), (WEIGHTS, "copy it whole")),
        (lambda folder: (folder / CONFIG).unlink(), (CONFIG, "copy it whole")),
        (flip_a_byte, (WEIGHTS, "altered or cut short")),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"short"), (WEIGHTS, "altered or cut short")),
        (lambda folder: (folder / CONFIG).write_text("{"), (CONFIG, "is not JSON")),
        (lambda folder: (folder / CONFIG).write_text("[]"), (CONFIG, "holds list")),
        (rename_a_class, (CONFIG, "was altered")),
        (lambda folder: edit(folder, sha256=None), (CONFIG, "sha256 is None")),
        (lambda folder: edit(folder, labels={}), (CONFIG, "names is None")),
        (lambda folder: edit(folder, format=2), ("format 2", "reads 1")),
        (lambda folder: edit(folder, labels={"name": "two", "names": ["a", "b"]}), ("2 classes", "model of 3")),
        (lambda folder: edit(folder, model={"head": "dane"}), ("model.head is 'dane'",)),
        (lambda folder: edit(folder, model={"backbone": "resnet18", "num_classes": 3}), (WEIGHTS, "does not fit")),
        (lambda folder: edit(folder, preprocess={"men": [0.0]}), ("preprocess.men", "Did you mean preprocess.mean?")),
    ],
)
def test_damage_is_named_in_one_line(damage, words, tiny_folder):
    damage(tiny_folder)
    with pytest.raises(InputError) as caught:
        load_bundle(tiny_folder)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
