"""The exported page in a real browser: what it makes of an image beside what Python makes of it."""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, Page

import danet
from danet.cli import main
from danet.config import HEADS, Preprocess
from danet.data.scenes import scene
from danet.export import browser
from danet.export.page import export_page
from danet.inference.segmenter import Segmenter
from danet.viz.answer import AttentionView, ModelFacts, _channel_tensors, window
from danet.weights.bundle import save_bundle
from tests.export.test_onnx import bundle_of, config_of
from tests.models.test_contract import network
from tests.viz.browser import ask

ARRAYS = (
    *("labels", "confidence", "query", "key", "logsumexp", "features", "value", "gathered", "gate_labels"),
    *("taken_labels", "taken_confidence", "channels", "channels_after", "channel_energy"),
)
SIZE = 189, 251
READY = "count => document.querySelectorAll('.gallery button').length >= count"


@pytest.fixture(scope="module", autouse=True)
def archive() -> Path:
    """onnxruntime-web in the tests' own cache; `make setup` has fetched it."""
    fetched = Path(".venv", "cache", "npm", browser.ARCHIVE)
    if fetched.is_file():
        folder = browser.cache_folder() / "npm"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(fetched, folder)
    return browser.archive()


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing, and keeps what was asked for."""

    asked: list[str]

    def log_message(self, format: str, *arguments: object) -> None:
        self.asked.append(self.path)


@contextmanager
def served(root: Path) -> Iterator[tuple[str, list[str]]]:
    """A host of `root`: its address, and what it is asked for."""
    asked: list[str] = []
    handler = type("Handler", (Quiet,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()


@contextmanager
def opened(chromium: Browser, address: str) -> Iterator[Page]:
    """The page, on which nothing may go wrong unheard."""
    page, wrong = chromium.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".stages canvas")
    yield page
    page.close()
    assert not wrong


def drop(page: Page, pixels: np.ndarray, path: Path, count: int = 3) -> None:
    """Has the page encode an image, and waits until it is shown; a colour profile changes nothing, as in danet."""
    gamma = PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    Image.fromarray(pixels).save(path, pnginfo=gamma)
    page.set_input_files("label.choose input", path)
    page.wait_for_function(READY, arg=count, timeout=60_000)
    page.wait_for_function("name => document.querySelector('[aria-pressed=true]').textContent === name", arg=path.name)


def shown(page: Page) -> dict[str, Any]:
    """The view that the page made of an image, as Python values."""
    view = ask(
        page,
        "Object.fromEntries(Object.entries(danet.view).map(([name, one]) => "
        "[name, ArrayBuffer.isView(one) ? Array.from(one) : one instanceof Blob ? null : one]))",
    )
    return {name: np.array(one) if name in ARRAYS else one for name, one in view.items()}


def the_same(found: dict[str, Any], expected: AttentionView) -> None:
    """What the page made of an image and what Python made of it."""
    same(found["labels"], expected.labels)
    assert np.abs(found["confidence"] - expected.confidence.ravel()).max() <= 2
    for one in found["classes"]:
        assert one["share"] == pytest.approx(expected.shares[one["name"]], abs=1e-3)
    assert found["model"] == expected.model._asdict()
    assert (found["position"] is None) == (expected.position is None)
    if expected.position is not None:
        seen, told = expected.position, found["position"]
        assert (told["gate"], tuple(told["grid"])) == (pytest.approx(seen.gate), seen.grid)
        assert told["share"] == pytest.approx(seen.share, rel=1e-3)
        assert told["similarity"] == pytest.approx(seen.similarity, abs=0.1)  # of other places
        places = len(seen.query)
        energies = found["query"].reshape(places, -1) @ found["key"].reshape(len(seen.key), -1).T
        weights = np.exp(energies - found["logsumexp"][:, None])
        rows = np.exp(seen.query @ seen.key.T - seen.logsumexp[:, None])
        assert np.abs(weights - rows).max() < 1e-3
        for name in ("features", "value", "gathered"):
            assert np.abs(found[name] - getattr(seen, name).ravel()).max() < 0.03, name
        same(found["gate_labels"], seen.gate_labels)
        same(found["taken_labels"], seen.taken.labels)
        assert np.abs(found["taken_confidence"] - seen.taken.confidence.ravel()).max() <= 3
        windows = None if seen.pool is None else [window(one.reshape(seen.grid)) for one in seen.pool]
        assert told["windows"] == windows
    assert (found["channel"] is None) == (expected.channel is None)
    if expected.channel is not None:
        seen, told = expected.channel, found["channel"]
        assert [one["index"] for one in told["maps"]] == seen.indices
        assert (told["total"], told["rule"], tuple(told["grid"])) == (seen.total, seen.rule, seen.before.shape[1:])
        assert told["share"] == pytest.approx(seen.share, rel=1e-3)
        for one, expected_most in zip(told["maps"], seen.draws_on, strict=True):
            assert [weight for _, weight in one["draws_on"]] == pytest.approx([w for _, w in expected_most], abs=1e-3)
        tensors = _channel_tensors(seen)
        for name in ("channels", "channels_after"):
            assert np.abs(found[name] - tensors[name].ravel().astype(int)).max() <= 1
        assert np.allclose(found["channel_energy"], seen.energy.ravel(), rtol=1e-3, atol=1e-2)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found == expected.ravel()).mean() > 0.999


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with street-tiny's page below it."""
    root = tmp_path_factory.mktemp("host")
    assert main(["export", "--to", "page", "-o", str(root / "some" / "street")]) == 0
    return root


def test_an_image_is_encoded_as_python_does_it(host, chromium, tmp_path):
    pixels, longest = scene(7, 2, *SIZE).image, 256
    segmenter = danet.load(device="cpu", precision="float32")
    assert segmenter.preprocess.longest == longest
    with served(host) as (address, asked), opened(chromium, f"{address}some/street/") as page:
        drop(page, pixels, tmp_path / "street.png")
        the_same(shown(page), segmenter.encode(pixels).view("street.png"))
        assert page.locator(".gallery button").all_inner_texts() == ["built-in scene", "its twin", "street.png"]
        drop(page, scene(7, 3, 1500, 2000).image, tmp_path / "large.png", 4)
        large = ask(
            page, "[danet.view.size, danet.view.original_size, danet.view.grid, new Set(danet.view.labels).size]"
        )
        # the network saw 192×256 of its pixels
        assert large[:3] == [[768, 1024], [1500, 2000], [24, 32]]
        assert large[3] > 4
        Image.fromarray(pixels[:31]).save(tmp_path / "small.png")
        page.set_input_files("label.choose input", tmp_path / "small.png")
        page.get_by_text("small.png: the image is 251×31 pixels; each side must be at least 32").wait_for()
        (tmp_path / "no-image.png").write_text("no image")
        page.set_input_files("label.choose input", tmp_path / "no-image.png")
        page.get_by_text("no-image.png: this browser cannot read it").wait_for()
        assert page.locator(".gallery button").count() == 4
        with page.expect_download() as download:
            page.locator(".share summary, .share button").first.click()
            page.get_by_text("This page as one file").click()
        download.value.save_as(tmp_path / "alone.html")
    assert asked
    assert all(path.startswith("/some/street/") for path in asked)
    with opened(chromium, (tmp_path / "alone.html").as_uri()) as page:
        assert page.locator(".gallery button").all_inner_texts() == ["large.png"]


@pytest.mark.parametrize("lacking", ["model.onnx", "page.json", "page/worker.js", f"onnxruntime/{browser.FILES[2]}"])
def test_a_network_that_cannot_be_loaded_is_told_in_a_line(lacking, host, chromium, tmp_path):
    root = tmp_path / "host"
    shutil.copytree(host / "some" / "street", root, copy_function=os.link)
    (root / lacking).unlink()
    Image.fromarray(scene(7, 2, *SIZE).image).save(tmp_path / "street.png")
    page = chromium.new_page()
    with served(root) as (address, _):
        page.goto(address)
        page.wait_for_selector(".stages canvas")
        page.set_input_files("label.choose input", tmp_path / "street.png")
        page.get_by_text("street.png: the network could not be loaded").wait_for()
    page.close()


def test_the_folder(host):
    folder = host / "some" / "street"
    assert sorted(path.name for path in folder.iterdir()) == [
        "examples", "index.html", "labels.json", "model.onnx", "onnxruntime", "page", "page.json", "stand-alone.html",
    ]  # fmt: skip
    facts = json.loads((folder / "labels.json").read_text())
    assert [one["agreement"] > 0.999 and one["largest_difference"] < 1e-3 for one in facts["parity"]] == [True] * 3
    assert "Content-Security-Policy" in (folder / "index.html").read_text()
    assert "http.server" in (folder / "index.html").read_text()  # for those who open it from a file


@pytest.mark.slow
@pytest.mark.parametrize("head", [head for head in HEADS if head != "danet"])
def test_pages_of_other_heads(head, chromium, tmp_path):
    model, rule = network(config_of(head)), Preprocess()
    bundle = replace(bundle_of(model, rule), model_config=config_of(head))
    facts = ModelFacts("five", head, "test_resnet", "")
    export_page(tmp_path / "page", bundle, facts)
    pixels = scene(7, 2, 89, 121).image  # within 64 places of these networks' 2 pixels
    segmenter = Segmenter(model, bundle.labels, rule, "cpu", "float32", facts)
    with served(tmp_path / "page") as (address, _), opened(chromium, address) as page:
        drop(page, pixels, tmp_path / "street.png")
        the_same(shown(page), segmenter.encode(pixels).view("street.png"))


def test_what_a_page_cannot_be_made_of_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    new = ["export", "--to", "page", "-o", str(tmp_path / "new")]
    assert main([*new, "--precision", "float16"]) == 2
    rule = Preprocess.model_validate({"names": ["red", "green", "blue", "nir"]})
    save_bundle(tmp_path / "four", replace(bundle_of(network(config_of("fcn", 4)), rule)))
    assert main([*new, "--model", str(tmp_path / "four")]) == 2
    monkeypatch.setenv("DANET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "find_spec", lambda name: None)
    assert main(new) == 2
    (tmp_path / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    assert main(new) == 2
    (tmp_path / "cache" / "npm" / browser.ARCHIVE).write_bytes(b"another")
    assert main(new) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("danet:")]
    words = ["--precision", "4 channels", r"danet\[page\]", "could not fetch .*no network", "not the archive"]
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert re.search(word, line), line
    assert not (tmp_path / "new").exists()
