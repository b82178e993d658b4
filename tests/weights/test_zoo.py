"""Models by name: what a name stands for, those that others published, and the one that comes with the package."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from danet.cli import main
from danet.config import ModelConfig, Preprocess, read_config
from danet.data.dataset import Dataset
from danet.data.labels import LabelSpace
from danet.data.scenes import far_from_things, scene
from danet.data.sources import scenes
from danet.errors import InputError
from danet.evaluation.context import context_scores
from danet.evaluation.evaluate import evaluate
from danet.inference.segmenter import load
from danet.models.attention import gates
from danet.models.segmentation import build_model
from danet.weights import zoo
from danet.weights.bundle import CARD, CONFIG, WEIGHTS, Bundle, load_bundle
from danet.weights.convert import export
from danet.weights.zoo import DEFAULT, embedded, find_bundle, published
from tests.weights.server import Server

FIND = "import sys; from danet.weights import zoo; zoo.ZOO = zoo.Path(sys.argv[1]); print(zoo.find_bundle(sys.argv[2]))"
""" `find_bundle` of another process, with a zoo.yaml of its own."""


@pytest.fixture(scope="module")
def checkpoint():
    """A small network of 19 classes, and its weights as mmsegmentation would have written them."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet18", output_stride=32, channels=8)
    bundle = Bundle(build_model(config).eval(), config, LabelSpace.load("cityscapes"), Preprocess())
    file = io.BytesIO()
    torch.save(export(bundle, "mmseg"), file)
    return bundle.model, file.getvalue()


@pytest.fixture
def server(checkpoint, tmp_path, monkeypatch):
    """A zoo of one model, `toy-mmseg` for short, on a server that stands in for its authors'."""
    data = checkpoint[1]
    digest = hashlib.sha256(data).hexdigest()
    with Server() as server:
        server.files["toy.pth"] = data
        entry = published()["danet-r50-cityscapes-512x1024-80k-mmseg"].model_dump()
        entry |= {"url": server.url("toy.pth"), "sha256": digest[:8], "alias": "toy-mmseg", "pixel_accuracy": None}
        (tmp_path / "zoo.yaml").write_text(yaml.safe_dump({"models": {"toy-r18-mmseg": entry}}))
        monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo.yaml")
        monkeypatch.setenv("DANET_CACHE", str(tmp_path / "cache"))
        yield server


def test_a_folder_comes_before_a_name(tiny_folder, tmp_path, monkeypatch):
    assert find_bundle(tiny_folder) == tiny_folder
    run = tmp_path / "run"
    shutil.copytree(tiny_folder, run / "best")
    assert find_bundle(str(run)) == run / "best"
    assert find_bundle(DEFAULT).parent.name == "weights"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / DEFAULT)
    assert find_bundle(DEFAULT) == Path(DEFAULT)
    assert load(run).labels.names == load(DEFAULT).labels.names == ("road", "car", "tree")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("strete-tiny", "Did you mean street-tiny?"),
        ("danet-r50-cityscape-mmseg", "Did you mean danet-r50-cityscapes-mmseg?"),
        ("runs/street-tyni", "Did you mean street-tiny?"),
        ("street.png/x/y", "`danet info` lists the models; a run or a bundle is a folder."),
    ],
)
def test_an_unknown_name_is_one_line(name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("street.png").touch()
    Path("runs").mkdir()
    with pytest.raises(InputError) as caught:
        find_bundle(name)
    assert str(caught.value) == f"{name} is no folder, and no model of this name is known. {hint}"


def test_a_published_model_is_fetched_once_and_is_the_same_network(server, checkpoint, tmp_path, capsys):
    told = []
    folder = find_bundle("toy-mmseg", lambda *now: told.append(now))
    assert told[-1] == (len(checkpoint[1]),) * 2
    assert not capsys.readouterr().err
    assert find_bundle("toy-r18-mmseg") == find_bundle("toy-mmseg") == folder == tmp_path / "cache/zoo/toy-r18-mmseg"
    assert server.asked == [("toy.pth", 0)]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["toy-r18-mmseg", "toy-r18-mmseg.lock"]
    bundle, images = load_bundle(folder), torch.randn(1, 3, 64, 96)
    assert torch.equal(bundle.model(images).logits, checkpoint[0](images).logits)
    assert (bundle.labels.name, bundle.model_config.align_corners) == ("cityscapes", False)
    scores = bundle.scores["published"]
    assert (scores["miou"], scores["protocol"]) == (0.7934, "whole images of 1024×2048, one scale")
    assert bundle.provenance["url"] == server.url("toy.pth")
    card = (folder / CARD).read_text()
    assert (
        "published: miou 0.7934; protocol whole images of 1024×2048, one scale; measured by its authors, not by" in card
    )
    assert "terms: trained on Cityscapes, which is for non-commercial use" in card


def test_two_processes_fetch_it_once(server, tmp_path):
    server.hold_after = 1 << 20
    command = [sys.executable, "-c", FIND, str(tmp_path / "zoo.yaml"), "toy-mmseg"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.held.wait(100)
    threading.Timer(0.5, server.release.set).start()
    folder = find_bundle("toy-mmseg", lambda *_: pytest.fail("It is being fetched by the other process."))
    out, err = other.communicate()
    assert (out.strip(), server.asked) == (str(folder), [("toy.pth", 0)])
    assert "Fetching toy-r18-mmseg, once: 1 of " in err


def test_what_was_fetched_is_kept_when_it_cannot_be_saved(server, checkpoint, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zoo, "save_bundle", full)
        with pytest.raises(InputError, match=r"toy-r18-mmseg cannot be written \(No space left .* DANET_CACHE\.$"):
            find_bundle("toy-mmseg")
    find_bundle("toy-mmseg")
    assert server.asked == [("toy.pth", 0), ("toy.pth", len(checkpoint[1]) - 1)]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda server, _: server.files.clear(), "toy.pth cannot be had (HTTP 404 Not Found)"),
        (lambda server, _: server.files.update({"toy.pth": b"other"}), "has SHA-256"),
        (lambda _, entry: entry.update(labels="voc"), "voc"),
        (lambda _, entry: entry.update(layout="original"), "toy.pth"),
    ],
)
def test_what_cannot_be_had_leaves_no_model(damage, words, server, tmp_path):
    models = yaml.safe_load((tmp_path / "zoo.yaml").read_text())
    damage(server, models["models"]["toy-r18-mmseg"])
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(models))
    with pytest.raises(InputError) as caught:
        find_bundle("toy-mmseg")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache/zoo/toy-r18-mmseg").exists()
    assert not list((tmp_path / "cache/zoo").glob("*.part"))


def test_what_zoo_yaml_states_comes_before_what_the_file_says(server, tmp_path):
    text = (tmp_path / "zoo.yaml").read_text()
    (tmp_path / "zoo.yaml").write_text(text.replace("align_corners: false", "align_corners: true"))
    assert load_bundle(find_bundle("toy-mmseg")).model_config.align_corners is True


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DANET_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"toy-r18-mmseg cannot be written .* name another folder in DANET_CACHE"):
        find_bundle("toy-mmseg")


def test_zoo_yaml_has_every_published_checkpoint():
    models = published()
    assert len(models) == 18
    aliases = {entry.alias: entry for entry in models.values() if entry.alias}
    assert aliases["danet-r50-cityscapes-mmseg"].miou == 79.34
    assert not {*aliases} & {*models}
    for alias, entry in aliases.items():
        network, data, _ = alias.rsplit("-", 2)
        rivals = [other.miou for name, other in models.items() if name.startswith(f"{network}-{data}")]
        assert entry.miou == max(other for other in rivals), alias
    for name, entry in models.items():
        assert LabelSpace.load(entry.labels).name in name
        assert entry.align_corners == (entry.layout == "original" or "769x769" in name)
        if entry.layout == "mmseg":
            network, data, size, steps, _ = name.removeprefix("danet-").split("-")
            file = f"danet_{network}-d8_{size}_{steps}_{data}".replace("voc", "voc12aug")
            assert f"/danet/{file}/{file}_20" in entry.url
            assert entry.url.endswith(f"-{entry.sha256}.pth")


def test_info_lists_published_models(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["published"]
    assert {*listed} == {*published()}
    for name, facts in listed.items():
        assert f"{name}: {100 * facts['miou']:.2f} %, {facts['protocol']}; licence {facts['licence']}" in shown
    assert listed["danet-r101-cityscapes-original"]["pixel_accuracy"] == 0.9597


def test_a_model_on_the_hub_also_without_a_connection(tiny_folder, tmp_path):
    """The Hub's own client, against a stand-in that answers as the Hub does."""
    with Server() as server:
        server.publish("me/tiny", {path.name: path.read_bytes() for path in tiny_folder.iterdir()} | {"train.log": b""})
        server.publish("me/other", {CARD: b"nothing here"})
        script = (
            "import sys; from danet.weights.zoo import find_bundle\n"
            "for name in map(str.strip, sys.stdin):\n"
            "  try: print(find_bundle(name), flush=True)\n"
            "  except ValueError as error: print(error, flush=True)\n"
        )
        home = {"HF_ENDPOINT": server.url("").rstrip("/"), "HF_HOME": str(tmp_path / "hub")}
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin
        assert process.stdout

        def ask(name):
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        folder = Path(ask("me/tiny"))
        assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
        assert load_bundle(folder).labels.names == ("road", "car", "tree")
        assert ask("me/tiny@main") == str(folder)
        assert ask("me/tiny@v9").startswith("me/tiny has no revision 'v9'; name one of")
        assert ask("me/none").startswith("me/none is no folder here, and the Hub has no such model;")
        assert ask("me/other") == (
            "me/other on the Hub has no config.json: it is no bundle of danet; choose another model."
        )
    assert ask("me/tiny") == str(folder)
    assert "cannot be fetched from the Hub (" in ask("me/unseen")
    process.communicate()


def test_a_run_without_a_model_says_how_to_go_on(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match="has validated no model yet; go on with: danet train --resume"):
        find_bundle(tmp_path)


def test_street_tiny_is_small_and_says_what_it_is():
    folder = find_bundle(DEFAULT)
    assert embedded() == [DEFAULT]
    assert (folder / WEIGHTS).stat().st_size <= 8 * 2**20
    assert {t.dtype for t in load_file(folder / WEIGHTS).values() if t.is_floating_point()} == {torch.float16}
    config, card = json.loads((folder / CONFIG).read_text()), (folder / CARD).read_text()
    recipe = read_config(DEFAULT)
    bundle, stride = load_bundle(folder), {"output_stride": 8}  # what None stood for was written down then
    assert bundle.model_config == recipe.model.model_copy(update={"num_classes": 11, **stride})
    assert bundle.preprocess == recipe.preprocess
    assert "+" not in config["provenance"]["danet"], "trained by uncommitted code"
    assert "a toy, trained on drawn streets alone" in card
    for branch, sign in (("position", "α"), ("channel", "β")):
        assert f"{branch} {sign}: {gates(load(DEFAULT).model)[branch]:.3f}" in card
    for name in ("miou", "context", "majority", "follows", "control"):
        assert f"{name}: {config['scores'][name]}" in card


def test_street_tiny_follows_what_stands_far_away():
    """Eight streets that nothing was ever trained or chosen on, and their twins."""
    segmenter = load(DEFAULT, "cpu", "float32")
    streets = [scene(3, index, twin=twin) for index in range(8) for twin in (False, True)]
    far = [(segmenter(street.image).labels == street.labels)[far_from_things(street.labels)] for street in streets]
    assert sum(right.sum() for right in far) / sum(right.size for right in far) > 0.8


@pytest.mark.slow
def test_the_scores_in_street_tiny_s_card_are_its_own():
    segmenter = load(DEFAULT, "cpu", "float32")
    fresh, twins, control = (Dataset(*scenes(split, 100, 192, 256, seed=1)) for split in ("val", "twins", "control"))
    kept = json.loads((find_bundle(DEFAULT) / CONFIG).read_text())["scores"]
    assert evaluate(segmenter, fresh).scores.miou == pytest.approx(kept["miou"], abs=2e-3)
    for name, value in context_scores(segmenter, fresh, twins, control)._asdict().items():
        assert value == pytest.approx(kept[name], abs=2e-3), name


def test_without_a_model_commands_take_street_tiny_and_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene(3, 0, 96, 128).image).save("street.png")
    for command in (
        ("predict", "street.png"),
        ("attend", "street.png", "--at", "60,80", "--html", "street.html"),
        ("evaluate", "--data.count", "10"),
    ):
        assert main([*command, "--json"]) == 0
        said = capsys.readouterr()
        assert "a toy trained on drawn streets" in said.err
        json.loads(said.out)
    assert main(["predict", "street.png", "--model", DEFAULT]) == 0
    assert "toy" not in capsys.readouterr().err
    assert Path("predictions/street.json").is_file()
    assert Path("street.html").is_file()
