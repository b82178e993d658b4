"""How the server starts, and what stands in its way, in one line."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danet.config import ModelConfig
from danet.errors import InputError
from danet.models.segmentation import build_model
from danet.serving.run import address, listen
from danet.weights.bundle import Bundle, save_bundle
from tests.serving.process import Server, photograph, png, serving


def refused(*options: str, code: str = "from danet.cli import main; raise SystemExit(main())") -> str:
    """What a start that fails says last, beside which there is no traceback."""
    found = subprocess.run(
        [sys.executable, "-c", code, "serve", *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    lines = found.stderr.splitlines()
    assert "Traceback" not in found.stderr
    assert lines[-1].startswith("danet: ")
    return lines[-1].removeprefix("danet: ")


def test_a_busy_port_is_one_line(server: Server):
    said = refused("--port", str(server.port))
    assert said == f"Port {server.port} of 127.0.0.1 is taken; choose another with --port, 0 for any free one."


def test_a_host_that_is_not_ours_is_one_line():
    assert refused("--host", "203.0.113.7").startswith("203.0.113.7:8000 cannot be had (")
    assert refused("--host", "no such host").startswith("no such host:8000 cannot be had (")


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_one_line_says_how_to_get_it(missing: str):
    code = f"import sys; sys.modules[{missing!r}] = None; from danet.cli import main; raise SystemExit(main())"
    assert refused(code=code) == "danet serve needs two packages more; install them with: pip install 'danet[serve]'"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", "65536"), "'65536' is no port; write a number of 0 to 65535"),
        (("--timeout", "0"), "'0' is no whole number above 0"),
        (("--max-pixels", "-5"), "'-5' is no whole number above 0"),
        (("--cors", "example.org"), "'example.org' is no origin; write scheme and host alone, as https://example.org"),
        (("--concurrency", "many"), "'many' is no whole number above 0"),
        (("--model", "nothing"), "nothing"),
    ],
)
def test_wrong_options_are_one_line(options: tuple[str, str], words: str):
    assert words in refused(*options)


def test_a_model_of_other_channels_is_told_apart(tiny: Bundle, tmp_path: Path):
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet18", out_indices=(2,), channels=8, num_classes=3, in_channels=4)
    channels = {
        "names": ("a", "b", "c", "d"),
        "rgb": (),
        "display": ("a", "b", "c"),
        "mean": (0.5,) * 4,
        "std": (0.2,) * 4,
    }
    preprocess = tiny.preprocess.model_copy(update=channels)
    save_bundle(tmp_path / "four", replace(tiny, model=build_model(config), model_config=config, preprocess=preprocess))
    assert "4 channels" in refused("--port", "0", "--model", str(tmp_path / "four"))


@pytest.mark.parametrize("head", ["fcn", pytest.param("cam", marks=pytest.mark.slow)])
def test_a_model_without_position_attention_is_served_too(tiny: Bundle, tmp_path: Path, head: str):
    config = ModelConfig(head=head, backbone="resnet18", out_indices=(2,), channels=8, num_classes=3)
    save_bundle(tmp_path / head, replace(tiny, model=build_model(config), model_config=config))
    with serving(tmp_path, "--model", str(tmp_path / head)) as server:
        told = server.get("/v1/model").json
        assert (told["name"], told["head"], told["note"]) == (head, head, "")
        assert server.post("/v1/attention", png(photograph())).status == 200


@pytest.mark.parametrize(("host", "where"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_address_is_one_that_a_browser_here_can_open(host: str, where: str):
    try:
        server = listen(host, 0)
    except InputError:
        pytest.skip(f"This machine has no {host}.")
    with server:
        assert address(server) == f"http://{where}:{server.getsockname()[1]}"


@pytest.mark.slow
def test_the_browser_is_opened_if_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    with serving(tmp_path, "--open") as server:
        deadline = time.perf_counter() + 10
        while not seen.exists() or not seen.read_text():
            assert time.perf_counter() < deadline
            time.sleep(0.05)
        assert seen.read_text() == f"http://127.0.0.1:{server.port}\n"
