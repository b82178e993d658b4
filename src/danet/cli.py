"""The command line: one short function a command; what it takes to run one is imported inside it."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danet import __version__
from danet.arguments import OPENED_BY, parse
from danet.config import RunConfig, fields, read_config, recipes
from danet.errors import InputError
from danet.files import explained, written_aside
from danet.interrupt import Interrupt

if TYPE_CHECKING:
    from danet.inference.protocol import Protocol

DONE, FAILED, WRONG, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 wrong use or input, 3 partly, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # α has no place in some systems' own encoding, nor some files' names
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    warnings.showwarning = lambda message, *_: print(f"danet: {message}", file=sys.stderr)
    try:
        options = parse([argument for argument in arguments if argument != "--debug"], COMMANDS)
        return options.command(options)
    except InputError as error:
        return _fail(str(error), WRONG, debug)
    except KeyboardInterrupt:
        return _fail("Interrupted.", INTERRUPTED, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # whatever it is, a person gets one line
        return _fail(f"{type(error).__name__}: {error} (--debug shows where)", FAILED, debug)


def demo(options: argparse.Namespace) -> int:
    """Train a small DANet on drawn streets, beside an FCN without attention, and show what it learned."""
    from danet.console import Screen, score_table
    from danet.demo import demo

    with Screen() as screen:
        path, reports = demo(screen, seed=options.seed)
    found = {"report": str(path), "scores": {name: report.to_dict() for name, report in reports.items()}}
    return _finish(options, found, score_table(reports), f"Report: {path}")


def train(options: argparse.Namespace) -> int:
    """Train a recipe, or your own data, into runs/NAME; or go on with a run."""
    overrides = _overrides(options)
    own = _is_own(options, overrides) and not options.resume
    config = read_config(options.recipe, _own_settings(overrides) if own else overrides)
    if config.init:
        config = _from_model(config, overrides)
    folder = Path("runs") / config.name
    if options.print_config:
        print(config.to_yaml(), end="")
        return DONE

    from danet.console import Screen, score_table
    from danet.inference.device import choose_device, choose_precision
    from danet.processes import joined
    from danet.training.loop import train
    from danet.training.summary import report_runs, run_config

    if options.resume:
        if options.recipe or overrides or options.dry_run:
            raise InputError("A resumed run keeps its own settings; give --resume alone, or start another run.")
        folder = Path(options.resume).resolve()
        config = run_config(folder).model_copy(update={"name": folder.name})
    if options.dry_run:
        return _rehearse(options, config)
    with joined() as processes, Screen(quiet=not processes.main) as screen:
        if own:
            screen.say(config.to_yaml().rstrip())
        device = choose_device(config.device)
        beside = f", {processes.count} processes" if processes.count > 1 else ""
        screen.say(f"{config.name}: on {device} in {choose_precision(config.precision, device)}{beside}")
        if config.expected:
            screen.say(f"{config.name}: expected {config.expected}")
        events = train(config, resume=bool(options.resume), runs=folder.parent, progress=screen.phase)
        with Interrupt(screen.say, processes) as interrupt:
            screen.watch(config.name, interrupt.until(events), config.optim.steps)
        if interrupt.came:
            screen.say(f"Interrupted; everything is kept. Go on with: danet train --resume {options.resume or folder}")
            return INTERRUPTED
        if not processes.main:
            return DONE
        title = f"{config.model.head} on {config.data.source}: {config.name}"
        report = report_runs({config.name: folder}, folder / "report.html", title, screen.phase)[config.name]
    found = {"run": str(folder), "report": str(folder / "report.html"), **report.to_dict()}
    return _finish(options, found, score_table({config.name: report}), f"Report: {folder / 'report.html'}")


def _from_model(config: RunConfig, overrides: dict[str, str]) -> RunConfig:
    """The configuration of a run that starts from a model, which brings its own network."""
    from danet.training.start import KEPT, resolve

    for name in overrides:
        section, _, field = name.partition(".")
        if section == "model" and field not in KEPT:
            raise InputError(f"--init {config.init} brings its own network: leave --{name} out.")
    return resolve(config)


def _rehearse(options: argparse.Namespace, config: RunConfig) -> int:
    """`danet train --dry-run`."""
    from danet.console import Screen, rehearsal_table
    from danet.training.rehearsal import rehearse

    with Screen() as screen:
        found = rehearse(config, screen.phase)
    facts = found._asdict() | {
        "config": found.config.model_dump(mode="json"),
        "cost": found.cost._asdict(),
        "options": [option._asdict() for option in found.options],
    }
    expected = [f"Expected: {config.expected}"] if config.expected else []
    return _finish(options, facts, rehearsal_table(found), *expected, "Nothing was written.")


def evaluate(options: argparse.Namespace) -> int:
    """Score a model on a validation set, by its own run's data or others, and by any protocol."""
    protocol = _protocol(options)

    from danet.console import Screen, report_lines, report_table
    from danet.data.dataset import Dataset
    from danet.evaluation.evaluate import evaluate
    from danet.evaluation.folder import write_report
    from danet.evaluation.submission import server_of, submission
    from danet.inference.device import choose_device, choose_precision
    from danet.inference.segmenter import load
    from danet.processes import joined
    from danet.training.data import absolute_root, context_region, open_split
    from danet.weights.bundle import digest
    from danet.weights.exported import is_exported
    from danet.weights.zoo import find_bundle

    output, sent = _report_places(options)
    overrides = _overrides(options)
    with joined() as processes:
        if sent and processes.count > 1:
            raise InputError("--submission is written by one process alone; start danet evaluate without torchrun.")
        name = _model(options.model) if processes.main else options.model
        with processes.main_first():  # what it fetches, the others find in the cache
            folder = find_bundle(name)
        run = folder.resolve().parent / "config.yaml"
        config = read_config(run if run.is_file() else None, overrides)
        other = "data.source" in overrides and run.is_file() and read_config(run).data.source != config.data.source
        if other:  # then the run's folder is none of it
            given = {"root": overrides.get("data.root"), "labels": overrides.get("data.labels")}
            config = config.model_copy(update={"data": config.data.model_copy(update=given)})
        if sent:
            server_of(config.data.source)
        if is_exported(folder):  # which has its own, whatever a run beside it has
            device, precision = options.device or "auto", options.precision or "auto"
        else:
            device = choose_device(options.device or config.device)
            precision = processes.of_main(choose_precision(options.precision or config.precision, device))
        segmenter = load(folder, str(device), precision)
        if not run.is_file() and "data.source" not in overrides and name is not None:
            raise InputError(f"{name} is part of no run, so its data are unknown; give --data.source and --data.root.")
        # Files are read in the model's channels, whatever the data set's labels.yaml says of them.
        config = config.model_copy(update={"preprocess": segmenter.preprocess.of(None)})
        dataset, region = Dataset(*open_split(config, options.split)), context_region(config)
        kept = submission(sent, config.data.source, options.split) if sent else nullcontext()
        with Screen(quiet=not processes.main) as screen, kept as keep:
            progress = screen.phase("score")
            report = evaluate(segmenter, dataset, protocol, region, progress, processes, keep=keep)
    if not processes.main:
        return DONE
    where = f", {config.data.root}" if config.data.root is not None else ""
    given = absolute_root(config).data.model_dump(mode="json", include={*OPENED_BY}, exclude_defaults=True)
    report = replace(
        report,
        data=f"{config.data.source} {options.split}{where}",
        sha256=digest(folder),
        data_fields={"source": config.data.source, "split": options.split, **given},
    )
    told = report_lines(report)
    if output:
        write_report(output, report)
        told.append(f"Report: {output}")
    if sent:
        told.append(f"Submission: {sent}")
    places = {"report": options.output, "submission": options.submission}
    return _finish(options, report.to_dict() | places, report_table(report), *told)


def _report_places(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Where `danet evaluate` writes report and submission; refuses, before any work, to replace anything else."""
    from danet.evaluation.folder import is_report

    output, sent = (Path(path) if path else None for path in (options.output, options.submission))
    if output and not is_report(output):
        _check_output(output, empty_folder=True)
    if sent:
        _check_output(sent, empty_folder=True, option="--submission")
    if output and sent and output.resolve() == sent.resolve():
        raise InputError(f"The report and the submission would both be {output}; choose another folder with -o.")
    return output, sent


def predict(options: argparse.Namespace) -> int:
    """Write label maps, overlays and class shares of images, rasters and videos, and one index of them all."""
    protocol = _protocol(options)
    if options.engine == "ray":
        return _predict_bulk(options, protocol)

    from danet.console import Screen, prediction_lines
    from danet.data.images import image_suffixes
    from danet.inference.inputs import plan
    from danet.inference.many import FILES, TOOLS, predict_many
    from danet.inference.segmenter import load
    from danet.weights.bundle import digest
    from danet.weights.zoo import find_bundle

    write = _kinds(options, (*FILES, *TOOLS)) or FILES
    folder, output = find_bundle(_model(options.model)), Path(options.output)
    segmenter = load(folder, options.device, options.precision)
    planned = plan([Path(path) for path in options.input], output, image_suffixes(segmenter.preprocess))
    with Screen() as screen:
        try:
            found = predict_many(
                segmenter,
                planned,
                output,
                protocol,
                write=write,
                by=[__version__, digest(folder), options.device, options.precision],
                resume=options.resume,
                uncertain_first=options.sort == "uncertainty",
                say=screen.say,
                phase=screen.phase,
            )
        except KeyboardInterrupt:
            screen.say(f"Interrupted; {output} keeps what is done. Go on with the same command and --resume.")
            return INTERRUPTED
    _finish(options, found.to_dict(segmenter.labels.names, output), *prediction_lines(found, output))
    if found.failed:
        return PARTLY if len(found.failed) < len(found.rows) else WRONG
    return PARTLY if found.warnings else DONE


def _predict_bulk(options: argparse.Namespace, protocol: Protocol) -> int:
    """`danet predict --engine ray`, which always goes on with what its folder holds."""
    write = _kinds(options, ("parquet", "png")) or ["parquet"]
    if len(write) > 1 or options.sort != "input":
        raise InputError("--engine ray writes parquet or png, one of them, in no order; leave --sort out.")
    lists = [path for path in options.input if path.lower().endswith(".txt")]
    if lists:
        raise InputError(f"--engine ray takes no list, as {lists[0]} is; give files, folders, Parquet or addresses.")

    from danet.console import Screen
    from danet.inference.bulk import predict_bulk

    with Screen() as screen:
        found = predict_bulk(
            _model(options.model),
            options.input,
            Path(options.output),
            write=write[0],
            protocol=protocol,
            device=options.device,
            precision=options.precision,
            progress=screen.phase("predict"),
        )
        for error in found.failures.values():
            screen.say(f"Left out: {error}")
    kept = f", {found.kept} were there before" if found.kept else ""
    told = f"{found.done} of {found.done + found.failed} images → {options.output}{kept}"
    _finish(options, found._asdict() | {"output": options.output}, told)
    return DONE if not found.failed else PARTLY if found.done or found.kept else WRONG


def _kinds(options: argparse.Namespace, known: Sequence[str]) -> list[str]:
    """What --write names, each once; none where it is not given."""
    for kind in options.write:
        if kind not in known:
            raise InputError(
                f"--write {kind} is not known with --engine {options.engine}; it knows {', '.join(known)}."
            )
    return list(dict.fromkeys(options.write))


def attend(options: argparse.Namespace) -> int:
    """Draw what the pixels of an image attend to, with gate and share beside each map, and what it is worth."""
    if not options.at and not options.html:
        raise InputError(
            "danet attend needs --at X,Y, a pixel whose map to draw, or --html FILE, a page with all maps."
        )
    if options.html and Path(options.html).resolve() == Path(options.image).resolve():
        raise InputError(f"The page {options.html} would replace the image; choose another file with --html.")
    if options.html and Path(options.html).is_dir():
        raise InputError(f"{options.html} is a folder; give --html a file, such as {Path(options.html) / 'page.html'}.")

    from danet.console import Screen
    from danet.inference.evidence import evidence, in_words
    from danet.inference.segmenter import load
    from danet.viz.attention import attention_overlay, caption

    segmenter, maps = load(_model(options.model), options.device, options.precision), {}
    with Screen() as screen:
        progress = screen.phase("attend")
        encoding = segmenter.encode(options.image)
        for number, at in enumerate(options.at, start=1):
            maps[at] = evidence(encoding, at, options.direction)
            progress(number, len(options.at))
    similarity, trace, folder = encoding.similarity(), encoding.traces["position"], Path(options.output)
    gate, share, places = trace.gate, trace.share.item(), trace.grid[0] * trace.grid[1]
    words, lines = caption(gate, share), []
    for (x, y), facts in maps.items():
        path = folder / f"{Path(options.image).stem}-attends-{options.direction}-{x}-{y}.png"
        folder.mkdir(parents=True, exist_ok=True)
        picture = attention_overlay(
            encoding.prediction.image,
            encoding.attention((x, y), options.direction),
            (x, y),
            [words],
            encoding.span,
        )
        with written_aside(path) as aside:
            picture.save(aside, format="PNG")
        facts |= {"path": str(path), "gate": gate, "share": share}
        lines += [f"({x}, {y}) {facts['class']} → {path}", f"  {in_words(facts, options.direction)}"]
    lines += [
        words,
        f"maps of {min(64, places)} random places resemble each other by {similarity:.2f} (1: all the same)",
    ]
    found = {"maps": list(maps.values()), "gate": gate, "share": share, "similarity": similarity}
    if options.html:
        found["html"] = str(encoding.save_html(options.html, Path(options.image).name))
        lines.append(f"Page: {options.html}")
    return _finish(options, found, *lines)


def serve(options: argparse.Namespace) -> int:
    """Serve the attention page, and labels and attention of images that are sent to it, until Ctrl-C."""
    try:
        from danet.serving.limits import Limits
        from danet.serving.run import address, listen, run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "starlette", "uvicorn", "h11"):
            raise
        raise InputError("danet serve needs two packages more; install them with: pip install 'danet[serve]'") from None
    limits = Limits(options.max_bytes, options.max_pixels, options.timeout, options.concurrency)
    with listen(options.host, options.port) as server:  # what is wrong with these is said first
        import webbrowser

        from danet.inference.segmenter import load
        from danet.serving.app import create_app

        segmenter = load(_model(options.model), options.device, options.precision)
        print("Computing the examples …", file=sys.stderr)
        app, where = create_app(segmenter, limits, options.host, options.cors), address(server)
        _finish(options, {"address": where}, f"{segmenter.facts.name} is at {where} (Ctrl-C ends it).")
        sys.stdout.flush()
        if options.open:
            webbrowser.open(where)
        run(app, server, limits)
    return DONE


def ablate(options: argparse.Namespace) -> int:
    """Train several heads, or settings, side by side over several seeds, and compare them; or go on with that."""
    from danet.console import Screen, comparison_table
    from danet.training.ablation import ablate, plan, write_comparison

    overrides = _overrides(options)
    if _is_own(options, overrides):
        overrides = _own_settings(overrides) | {"precision": overrides.get("precision", "auto")}  # runs keep theirs
    runs = plan(options.recipe, overrides, options.heads, options.seeds, options.vary)
    folder = (Path("runs") / runs[0].name).parent
    with Screen() as screen, Interrupt(screen.say) as interrupt:
        screen.say(f"{folder}: {len(runs)} runs of {runs[0].optim.steps} steps; what is done there is not done again.")
        rows, failed = ablate(
            runs, lambda name, events, steps: screen.watch(name, interrupt.until(events), steps), screen.phase
        )
        if interrupt.came:
            screen.say("Interrupted; everything is kept. Go on with the same command.")
            return INTERRUPTED
        for name, error in failed.items():
            screen.say(f"Failed: {name}: {error}")
    comparison = write_comparison(folder, rows)
    found = {"folder": str(folder), "runs": rows, "failed": failed, "findings": comparison.findings}
    _finish(options, found, comparison_table(comparison), *comparison.findings, f"Tables and plots: {folder}")
    return PARTLY if failed else DONE


def info(options: argparse.Namespace) -> int:
    """Tell what models and runs are: architecture, classes, scores, gates, where they come from; and compare runs."""
    from danet.console import Screen, difference_tables
    from danet.inference.device import choose_device, choose_precision
    from danet.models.attention import gates
    from danet.training.board import write_board
    from danet.training.differences import differences, find_runs
    from danet.weights.bundle import load_bundle
    from danet.weights.exported import is_exported, read_exported
    from danet.weights.zoo import embedded, find_bundle, published, published_scores

    runs = find_runs(options.model)
    if options.tensorboard and not runs:
        raise InputError("--tensorboard needs the folder of a run, such as: danet info runs/NAME --tensorboard")
    if not options.model:
        device = choose_device()
        facts = {"danet": __version__, "device": str(device), "precision": choose_precision("auto", device)}
        facts |= {"recipes": recipes(), "models": embedded()}
        zoo = published()
        terms = ("alias", "licence", "code_licence", "terms", "url")
        listed = {
            name: {**published_scores(entry), **{term: getattr(entry, term) for term in terms}}
            for name, entry in zoo.items()
        }
        shown = {
            name: f"{entry.miou:.2f} %, {entry.protocol}; licence {entry.licence}"
            + (f"; also {entry.alias}" if entry.alias else "")
            for name, entry in zoo.items()
        }
        heading = "published models, fetched on first use (mIoU as their authors measured it, not we)"
        told = facts | {heading: shown, "terms": "; ".join(sorted({entry.terms for entry in zoo.values()}))}
        return _finish(options, facts | {"published": listed}, *_lines(told))
    compared, found = differences(runs) if len(runs) > 1 else None, {}
    for path in options.model:
        if (compared or options.tensorboard) and find_runs([path]) and not (Path(path) / "best").is_dir():
            found[path] = {"model": None}
            continue
        folder = find_bundle(path)
        if is_exported(folder):
            found[path] = read_exported(folder).model_dump(mode="json", exclude={"format", "colours"})
            continue
        bundle = load_bundle(folder)
        found[path] = {
            "model": bundle.model_config.model_dump(mode="json", exclude_defaults=True),
            "parameters": sum(parameter.numel() for parameter in bundle.model.parameters()),
            "classes": list(bundle.labels.names),
            "gates": gates(bundle.model),
            "scores": bundle.scores,
            "provenance": bundle.provenance,
        }
    more: list[Any] = [] if compared is None else difference_tables(compared)
    if options.tensorboard:
        with Screen() as screen:
            boards = {path: str(write_board(run, screen.phase(path))) for path, run in runs.items()}
        for path, board in boards.items():
            found[path]["tensorboard"] = board
        more.append(
            f"See them with: tensorboard --logdir {' or '.join({str(run.parent): '' for run in runs.values()})}"
        )
    told = {path: facts | ({} if facts["model"] else {"model": "none validated yet"}) for path, facts in found.items()}
    if compared:
        found["differences"] = compared.to_dict()
    return _finish(options, found, *_lines(told), *more)


def convert(options: argparse.Namespace) -> int:
    """Turn a published checkpoint into a bundle, or with --to a model into a checkpoint for others' code."""
    asked = {name: getattr(options, name) for name in ("labels", "multi_grid", "output_stride", "align_corners")}
    if options.to:
        return _convert_back(options, asked)

    from danet.console import Screen
    from danet.weights.bundle import save_bundle
    from danet.weights.convert import convert
    from danet.weights.download import name_in
    from danet.weights.zoo import borrowed

    fetched = "://" in options.checkpoint
    path = Path(name_in(options.checkpoint) if fetched else options.checkpoint)
    folder = Path(options.output or Path(path.name.removesuffix(".tar")).stem)
    _check_output(folder, empty_folder=True)
    with Screen() as screen:
        file = borrowed(options.checkpoint, screen.phase("fetch")) if fetched else nullcontext(path)
        with file as path:
            screen.say(f"Reading {path}")
            bundle = convert(path, layout=options.layout, **asked)
            with _written_to(folder):
                save_bundle(folder, bundle)
    facts = {
        "model": bundle.model_config.model_dump(mode="json", exclude_defaults=True),
        "classes": list(bundle.labels.names),
        "provenance": bundle.provenance,
    }
    return _finish(options, {"bundle": str(folder), **facts}, *_lines(facts), f"Bundle: {folder}")


def export(options: argparse.Namespace) -> int:
    """Write a model as a folder that runs without danet, in ONNX or as a page; and tell how near it is."""
    try:
        from danet.export.onnx import export_onnx
        from danet.export.page import export_page
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "onnxscript", "onnxruntime"):
            raise
        raise InputError(
            "danet export needs three packages more; install them with: pip install 'danet[export]'"
        ) from None

    from danet.console import Screen
    from danet.inference.segmenter import note, own_name
    from danet.viz.answer import ModelFacts
    from danet.weights.bundle import load_bundle
    from danet.weights.zoo import find_bundle

    model = _model(options.model)
    name = own_name(model)
    folder = Path(options.output or f"{Path(name).name}-{options.to}")
    _check_output(folder, empty_folder=True)
    if options.to == "page" and (options.precision, options.attention) != (None, None):
        raise InputError(
            "A page is in float32, with attention in a form of its own; leave --precision and --attention out."
        )
    bundle = load_bundle(find_bundle(model))
    precision = options.precision or "float32"
    with Screen() as screen, explained(folder, "choose another with -o, or make room"):
        progress = screen.phase("export")
        if options.to == "page":
            facts = ModelFacts(name, bundle.model_config.head, bundle.model_config.backbone, note(model))
            parity = export_page(folder, bundle, facts, progress)
            again = f"{folder}: python -m http.server -d {folder}, and open http://localhost:8000"
        else:
            parity = export_onnx(folder, bundle, name, precision, options.attention or "blocks", progress)
            again = f"{folder}: try python {folder / 'run.py'} IMAGE"
    found = {"folder": str(folder), "precision": precision, "parity": [one._asdict() for one in parity]}
    told = [
        f"{one.images} images of {one.width}×{one.height}: largest logit difference {one.largest_difference:.2g}, "
        f"labels that agree {100 * one.agreement:.3f} %"
        for one in parity
    ]
    return _finish(options, found, *told, again)


def data_init(options: argparse.Namespace) -> int:
    """Look at a folder of images with masks, or with annotations of other tools, and write its labels.yaml."""
    from danet.console import Screen
    from danet.data.survey import init

    with Screen() as screen:
        found = init(
            options.folder,
            images=options.images,
            masks=options.masks,
            groups=options.groups,
            val=options.val,
            force=options.force,
            progress=screen.phase("read masks"),
        )
    facts = {
        "labels": str(found.path),
        "found": found.kind,
        "classes": list(found.labels.names),
        "images": found.images,
        "kept together": found.groups,
    }
    again = (
        f"Names, colours and split are in {found.path}, to be changed by hand; then: danet data check {options.folder}"
    )
    notes = [f"note: {note}" for note in found.notes]
    return _finish(options, facts | {"notes": found.notes}, *_lines(facts), *notes, again)


def data_check(options: argparse.Namespace) -> int:
    """Read every image and mask of a data set, and tell what it holds, what is wrong and how to mend it."""
    from danet.console import Screen, contents_table, findings_table
    from danet.data.examination import examine
    from danet.training.data import CHECK_THREADS, open_split

    config = _data(options)
    with Screen() as screen:
        workers = 0 if config.data.source == "scenes" else CHECK_THREADS
        report = examine(partial(open_split, config), config.preprocess, workers=workers, progress=screen.phase)
    errors, warnings = report.count("error"), report.count("warning")
    told = f"Errors: {errors}, warnings: {warnings}." if report.findings else "Nothing is wrong."
    shown = [contents_table(report)] * bool(report.splits) + [findings_table(report)] * bool(report.findings)
    _finish(options, report.to_dict(), *shown, told)
    return WRONG if errors else PARTLY if warnings else DONE


def _convert_back(options: argparse.Namespace, asked: dict[str, Any]) -> int:
    import torch

    from danet.weights.bundle import load_bundle
    from danet.weights.convert import export
    from danet.weights.zoo import find_bundle

    if options.layout != "auto" or any(value is not None for value in asked.values()):
        raise InputError("With --to a model of danet is converted, which tells everything itself; take the rest out.")
    path = Path(options.output or f"{Path(options.checkpoint).name}-{options.to}.pth")
    _check_output(path)
    checkpoint = export(load_bundle(find_bundle(options.checkpoint)), options.to)
    with _written_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            torch.save(checkpoint, aside)
    found = {"checkpoint": str(path), "layout": options.to, "tensors": len(checkpoint["state_dict"])}
    return _finish(options, found, f"Checkpoint: {path}, {found['tensors']} tensors as {options.to} has them")


def _check_output(path: Path, empty_folder: bool = False, option: str = "-o") -> None:
    """Refuse, before any work, to replace what is there, and to write where nothing can be written."""
    with _written_to(path):
        free = empty_folder and path.is_dir() and not any(path.iterdir()) and path.resolve() != Path.cwd()
        if os.path.lexists(path) and not free:
            raise InputError(f"{path} exists; choose another with {option}, or remove it.")
        parent = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise InputError(
                f"{path} cannot be written, for {parent} is no folder to write to; choose another with {option}."
            )


@contextmanager
def _written_to(path: Path) -> Iterator[None]:
    """What the system says of writing `path`, in one line; torch says of a full disk RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written ({reason}); choose another with -o, or make room.") from None


def data_show(options: argparse.Namespace) -> int:
    """Show a data set on a page: images, masks, and crops of them as training sees them; and on one picture."""
    from danet.console import Screen
    from danet.training.defaults import own_config
    from danet.training.show import show

    config = _data(options)
    name = Path(config.data.root).resolve().name if config.data.root else config.data.source
    path = Path(options.output or f"{name}-data.html")
    _check_output(path)
    _check_output(path.with_suffix(".png"))
    if config.data.root is not None:  # crops are those of `danet train --data.root` without a recipe
        told = {"data.source": config.data.source, "data.root": config.data.root, "model.pretrained": "false"}
        config = own_config(told | _overrides(options))
    with Screen() as screen:
        page, sheet = show(config, path, options.count, screen.phase)
    return _finish(options, {"page": str(page), "sheet": str(sheet)}, f"Page: {page}", f"Contact sheet: {sheet}")


def data_tile(options: argparse.Namespace) -> int:
    """Cut large images and their masks into tiles that overlap, with an index of them."""
    from danet.console import Screen
    from danet.data.tiles import INDEX, cut

    folder = Path(options.output)
    with Screen() as screen:
        tiles, left_out = cut(
            Path(options.input), folder, options.size, options.overlap, options.void, screen.phase("cut tiles")
        )
    found = {"folder": str(folder), "tiles": len(tiles), "left_out": left_out}
    return _finish(options, found, f"{len(tiles)} tiles, {left_out} left out as void → {folder}, listed in {INDEX}")


COMMANDS = (
    demo,
    train,
    ablate,
    evaluate,
    predict,
    attend,
    serve,
    convert,
    export,
    info,
    data_init,
    data_check,
    data_show,
    data_tile,
)


def _is_own(options: argparse.Namespace, overrides: dict[str, str]) -> bool:
    """Whether data are named by their root alone."""
    return options.recipe is None and "data.root" in overrides


def _own_settings(overrides: dict[str, str]) -> dict[str, str]:
    """The settings for such data; says where they must do without weights."""
    from danet.training.defaults import own_settings

    settings = own_settings(overrides)
    if "model.pretrained" not in overrides and settings.get("model.pretrained") == "false":
        print(
            f"The published weights of {settings['model.backbone']} cannot be had, so training starts from scratch, "
            "which takes more steps and images; --model.pretrained FILE takes them from a file.",
            file=sys.stderr,
        )
    return settings


def _protocol(options: argparse.Namespace) -> Protocol:
    """What --protocol names, with the fields that have an option of their own."""
    from danet.inference.protocol import read_protocol

    given = {name: value for name, value in vars(options).items() if name.startswith("protocol.")}
    return read_protocol(options.protocol, {name.partition(".")[2]: value for name, value in given.items()})


def _overrides(options: argparse.Namespace) -> dict[str, str]:
    """The configuration's fields among the options."""
    prefix, known = "data." if options.command_name == "evaluate" else "", fields(RunConfig)
    return {name: value for name, value in vars(options).items() if name in known and name.startswith(prefix)}


def _data(options: argparse.Namespace) -> RunConfig:
    """The configuration of a data set that is named by its folder, by the fields of its source, or by both."""
    overrides = _overrides(options)
    if options.folder is not None:
        overrides = {"data.source": "folder", "data.root": options.folder, **overrides}
    if not overrides:
        raise InputError(f"danet {options.command_name} needs a folder with images/ and masks/, or --data.source.")
    return read_config(None, overrides)


def _model(name: str | None) -> str | None:
    """The model that was named; none stands for the one that comes with the package, which says what it is."""
    if name is None:
        print(
            "No model was named: this is street-tiny, a toy trained on drawn streets alone; it shows what attention "
            "does, and knows no photographs.",
            file=sys.stderr,
        )
    return name


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Nested facts as indented lines."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{indent}{name}:", *(f"{indent}  {'; '.join(_lines(one))}" for one in value)]
        else:
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return lines


def _finish(options: argparse.Namespace, found: dict[str, Any], *shown: Any) -> int:
    """Print the results: as JSON where that was asked for, else as tables and lines for a person."""
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for one in shown:
            console.print(one, markup=False, soft_wrap=True)
    return DONE


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"danet: {' '.join(message.split())}", file=sys.stderr)
    return code
