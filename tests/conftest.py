"""What tests of several rooms share: a small bundle, a small folder of data, the real CamVid where it is at hand."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from danet.config import ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.models.segmentation import build_model
from danet.weights.bundle import Bundle, save_bundle

NAMES = ("road", "car", "tree")

settings.register_profile("danet", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("danet")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tensors of tests are small: on a busy machine threads would only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test keeps goes into the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def determinism() -> Iterator[None]:
    """What a test asks of it ends with the test."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The folder that DANET_CAMVID names."""
    if "DANET_CAMVID" not in os.environ:
        pytest.skip("DANET_CAMVID does not name a folder with CamVid (train/, trainannot/, val/, valannot/).")
    return Path(os.environ["DANET_CAMVID"])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser: the one that DANET_CHROMIUM names, or one that the machine has."""
    installed = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    path = os.environ.get("DANET_CHROMIUM") or next(filter(None, installed), None)
    if path is None:
        pytest.skip("There is no chromium on the PATH, and DANET_CHROMIUM names none.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def tiny() -> Bundle:
    """A small DANet of three classes with open gates, so that attention matters."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet18", out_indices=(2,), channels=8, num_classes=len(NAMES))
    model = build_model(config).eval()
    for parameter in (model.head.position.gate, model.head.channel.gate):
        torch.nn.init.constant_(parameter, 0.5)
    with torch.no_grad():
        model.head.classifier.weight.mul_(30)
        model.head.classifier.bias.zero_()
    return Bundle(model, config, LabelSpace("street", NAMES), Preprocess(), {"miou": 0.5}, {"seed": "0"})


@pytest.fixture
def tiny_folder(tiny: Bundle, tmp_path: Path) -> Path:
    """`tiny` on disk."""
    save_bundle(tmp_path / "tiny", tiny)
    return tmp_path / "tiny"


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A folder as a user has it: ten images whose classes are their colours, masks, labels.yaml, and a recipe."""
    root = tmp_path / "own"
    generator = np.random.Generator(np.random.Philox(1))
    for split, count in (("train", 8), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = np.kron(generator.integers(0, 3, (3, 4), np.uint8), np.ones((16, 16), np.uint8))
            image = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]], np.uint8)[mask]
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{index}.png")
    (root / "labels.yaml").write_text(f"names: [{', '.join(NAMES)}]\n")
    (tmp_path / "own.yaml").write_text(
        f"""
name: own
precision: float32
model: {{backbone: resnet18, out_indices: [1], channels: 8}}
data: {{source: folder, root: {root}, crop: [32, 48], batch_size: 4, workers: 0}}
optim: {{steps: 4, lr: 0.01}}
validate_every: 2
"""
    )
    return root
