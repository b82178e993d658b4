"""The attention page with its network, as a static site: any image that is dropped on it is encoded in the browser."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from danet.config import SMALLEST_SIDE
from danet.data.parallel import Progress
from danet.data.scenes import EXAMPLE, scene
from danet.errors import InputError
from danet.export.browser import write_runtime
from danet.export.explained import Explained, explain
from danet.export.onnx import SIZES, Parity, compare, describe, refuse_far, write_graph
from danet.files import built_aside, sha256
from danet.inference.explanation import GATES, TAKEN
from danet.inference.network import ready
from danet.inference.segmenter import Segmenter
from danet.models.attention import attention_modules
from danet.viz.answer import ModelFacts, answer
from danet.viz.attention_page import page_file, stand_alone
from danet.weights.bundle import Bundle
from danet.weights.exported import LABELS, MODEL

PLACES = 64
"""A side of the largest map: its 4,096 places squared are 64 MB, of which a browser holds several."""
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
FROM_FILE = (
    "<p>This page has its network beside it, which a browser loads from a web server alone: run "
    "<code>python -m http.server</code> in its folder, and open http://localhost:8000.</p>"
)


def export_page(folder: Path, bundle: Bundle, facts: ModelFacts, progress: Progress | None = None) -> list[Parity]:
    """Write `folder`, new or empty; returns how near its network is to the original.

    Raises ParityError where it is not near enough, InputError for a model of other images than RGB pictures, where
    torch cannot export it and where onnxruntime-web cannot be had, and OSError; then there is no folder.
    """
    rule = bundle.preprocess
    if not rule.picture:
        raise InputError(f"This model takes images of {len(rule.names)} channels; the page has RGB pictures alone.")
    model, steps, done = ready(bundle.model, torch.device("cpu")), 3 + len(SIZES), 0

    def tell() -> None:
        nonlocal done
        if progress:
            progress(done, steps)
        done += 1

    with built_aside(folder) as aside:
        tell()
        for name in ("page", "examples", "onnxruntime"):
            (aside / name).mkdir()
        write_runtime(aside / "onnxruntime")
        tell()
        example = torch.zeros(1, len(rule.names), 70, 93)
        with torch.no_grad():
            names = list(explain(model, example))
        write_graph(aside / MODEL, Explained(model, rule, torch.float32).eval(), example, names, "whole")
        session = onnxruntime.InferenceSession(aside / MODEL, providers=["CPUExecutionProvider"])
        found = []
        for size in SIZES:
            tell()
            found.append(compare(session, bundle, size, batch=1))
        refuse_far(found, "float32")
        tell()
        told = describe(bundle, facts.name, "float32", "whole", found, {MODEL: sha256(aside / MODEL)})
        (aside / LABELS).write_text(told.model_dump_json(indent=2) + "\n", encoding="utf-8")
        page = page_facts(bundle, facts)
        (aside / "page.json").write_text(json.dumps(page, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_pages(aside)
        _write_examples(aside / "examples", bundle, facts, page["longest"])
        tell()
        aside.chmod(0o755)
    return found


def page_facts(bundle: Bundle, facts: ModelFacts) -> dict[str, Any]:
    """What page/network.js and page/compose.js know of the model."""
    modules, anatomy = dict(attention_modules(bundle.model)), bundle.model.anatomy
    colours = zip(bundle.labels.names, bundle.labels.colours, strict=True)
    cell, rule = anatomy.reductions[-1], getattr(modules.get("channel"), "rule", None)
    return {
        "model": facts._asdict(),
        "classes": [{"name": name, "colour": f"#{bytes(colour).hex()}"} for name, colour in colours],
        "longest": min(bundle.preprocess.longest or PLACES * cell, PLACES * cell),
        "smallest": SMALLEST_SIDE,
        "cell": cell if anatomy.step > 1 else None,
        "gate": modules["position"].gate.item() if "position" in modules else None,
        "gates": GATES,
        "taken": TAKEN,
        "channel_gate": modules["channel"].gate.item() if "channel" in modules else None,
        "rule": rule,
    }


def _write_pages(folder: Path) -> None:
    """The page's own files, with the network in place of a server."""
    for file in files("danet.viz").joinpath("page").iterdir():
        if file.name != "index.html":
            (folder / "page" / file.name).write_bytes(file.read_bytes())
    meta = '<meta name="color-scheme" content="light dark">'
    parts = {
        meta: f'{meta}\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<div class="attend" data-served></div>': f'<div class="attend" data-network>{FROM_FILE}</div>',
    }
    text = str(page_file("index.html"))
    for part, instead in parts.items():
        assert part in text
        text = text.replace(part, instead)
    (folder / "index.html").write_text(text, encoding="utf-8")
    (folder / "stand-alone.html").write_text(stand_alone(), encoding="utf-8")


def _write_examples(folder: Path, bundle: Bundle, facts: ModelFacts, longest: int) -> None:
    """A drawn street and its twin, as the server has them, at the size that the page sees."""
    rule = bundle.preprocess.model_copy(update={"longest": longest})
    segmenter = Segmenter(bundle.model, bundle.labels, rule, "cpu", "float32", facts)
    seed, index, height, width = EXAMPLE
    for name, twin in (("scene", False), ("twin", True)):
        view = segmenter.encode(scene(seed, index, height, width, twin=twin).image).view(name)
        (folder / f"{name}.safetensors").write_bytes(answer(view))
