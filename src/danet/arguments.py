"""The command line's arguments: what each command takes, and faults in one line with the nearest option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from danet import __version__
from danet.config import ABLATION, DataConfig, RunConfig, fields, nearest, recipes
from danet.errors import InputError
from danet.inference.protocol import PROTOCOLS, Protocol
from danet.weights.layouts import LAYOUTS

Command = Callable[[argparse.Namespace], int]
MODEL_HELP = "a run's folder, a bundle's, or a name (default: street-tiny, a toy trained on drawn streets)"

OPENED_BY = ("source", "root", "columns", "labels", "count", "size")
"""The fields of `data` that say which images are scored; all others are of training."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are InputErrors of one line, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. `{self.prog} --help` lists all.")


def parse(arguments: Sequence[str], commands: Sequence[Command]) -> argparse.Namespace:
    """Arguments as options with the function to run as `command`; its docstring is its help text, its name the
    command's (`data_check`: danet data check). Raises InputError for wrong use."""
    parser = Parser("danet", description="Scene segmentation by dual attention.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"danet {__version__}")
    groups = {"": parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)}
    known: dict[str, Parser] = {}
    for function in commands:
        group, _, name = function.__name__.rpartition("_")
        if group not in groups:
            outer = groups[""].add_parser(group, help=GROUPS[group], description=GROUPS[group], allow_abbrev=False)
            groups[group] = outer.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
        full, text = f"{group} {name}".strip(), function.__doc__ or ""
        one = known[full] = groups[group].add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(command=function, command_name=full)
        one.add_argument("--json", action="store_true", help="print the results as JSON on stdout")
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        OPTIONS[full](one)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        wrong = unknown[0].partition("=")[0]
        if not wrong.startswith("-"):
            raise InputError(f"danet {options.command_name} takes no further argument; {wrong!r} is one too many.")
        names = [name for action in known[options.command_name]._actions for name in action.option_strings]
        raise InputError(f"danet {options.command_name} has no option {wrong}. {nearest(wrong, names)}")
    return options


def _demo(one: Parser) -> None:
    one.add_argument("--seed", type=int, default=0, help="of weights, order and dropout (default: 0)")


def _train(one: Parser) -> None:
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help=f"a YAML file, or one of: {', '.join(recipes())}")
    one.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    one.add_argument("--print_config", action="store_true", help="print the resolved configuration and stop")
    one.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, take two steps, tell what the run takes, write nothing",
    )
    _add_fields(one, RunConfig, "")


def _ablate(one: Parser) -> None:
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help=f"a YAML file, or one of: {', '.join(recipes())}")
    one.add_argument("--heads", type=_list, default=list(ABLATION), metavar="A,B", help="(default: fcn,pam,cam,danet)")
    one.add_argument("--seeds", type=_numbers, default=[0, 1, 2], metavar="S,T", help="(default: 0,1,2)")
    one.add_argument(
        "--vary",
        type=_variation,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="each head once more with this field changed, or with several, comma-separated; may be repeated",
    )
    _add_fields(one, RunConfig, "")


def _evaluate(one: Parser) -> None:
    one.add_argument("model", nargs="?", metavar="RUN-OR-MODEL", help=MODEL_HELP)
    one.add_argument(
        "--protocol",
        default="whole",
        metavar="NAME-OR-FILE",
        help=f"one of {', '.join(PROTOCOLS)}; or a file of its fields, such as an earlier report.json (default: whole)",
    )
    one.add_argument("--split", choices=("train", "val", "test"), default="val", help="(default: val)")
    one.add_argument(
        "-o", "--output", metavar="DIR", help="write report.json, tables of images and classes, and pictures"
    )
    one.add_argument(
        "--submission", metavar="DIR", help="write the predictions as the server takes them: cityscapes, ade20k, voc"
    )
    _add_device(one, None)
    _add_fields(one, Protocol, "protocol.")
    _add_fields(one, DataConfig, "data.", OPENED_BY)


def _data_init(one: Parser) -> None:
    one.add_argument("folder", metavar="DIR", help="the folder of your images, and of masks or annotations")
    one.add_argument("--images", metavar="FOLDER", help="where in DIR the images are (default: found by their names)")
    one.add_argument("--masks", metavar="FOLDER", help="where in DIR the masks are (default: found by their names)")
    one.add_argument(
        "--groups",
        default="auto",
        metavar="RULE",
        help="what training and validation never share, such as a patient, a flight or a video: folder, prefix (names "
        "that differ in the number at their end alone), a regular expression, none, or auto (the default)",
    )
    one.add_argument("--val", type=float, default=0.2, metavar="SHARE", help="the share held out (default: 0.2)")
    one.add_argument("--force", action="store_true", help="write labels.yaml, and masks drawn before, anew")


def _data_check(one: Parser) -> None:
    _add_folder(one)


def _predict(one: Parser) -> None:
    one.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="an image, a raster, a video, a folder of images, or a list: a text file with a path in each line",
    )
    one.add_argument("--model", metavar="RUN-OR-MODEL", help=MODEL_HELP)
    one.add_argument(
        "-o", "--output", default="predictions", metavar="DIR", help="where to write (default: predictions)"
    )
    one.add_argument(
        "--write",
        type=_list,
        default=[],
        metavar="A,B",
        help="labels (always), overlay, json (default: these), and for annotation tools coco, labelme, cvat; with "
        "--engine ray: parquet (default) or png",
    )
    one.add_argument(
        "--resume", action="store_true", help="leave out what the folder's index has of the same files and model"
    )
    one.add_argument(
        "--sort",
        choices=("input", "uncertainty"),
        default="input",
        help="the index's order: as given (default), or the least certain first, which to label next",
    )
    one.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="ray: any number of images, on any machines"
    )
    one.add_argument(
        "--protocol",
        default="whole",
        metavar="NAME-OR-FILE",
        help=f"one of {', '.join(PROTOCOLS)}; or a file of its fields, such as a report.json (default: whole)",
    )
    _add_device(one)
    _add_fields(one, Protocol, "protocol.")


def _attend(one: Parser) -> None:
    one.add_argument("image", metavar="IMAGE")
    one.add_argument("--at", default=[], action="append", type=_point, metavar="X,Y", help="a pixel; may be repeated")
    one.add_argument("--html", metavar="FILE", help="write a page that shows the map of every pixel; needs no server")
    one.add_argument(
        "--direction", choices=("from", "to"), default="from", help="what it gathers from, or what gathers from it"
    )
    one.add_argument("--model", metavar="RUN-OR-MODEL", help=MODEL_HELP)
    one.add_argument("-o", "--output", default="attention", metavar="DIR", help="where to write (default: attention)")
    _add_device(one)


def _serve(one: Parser) -> None:
    one.add_argument("--model", metavar="RUN-OR-MODEL", help=MODEL_HELP)
    one.add_argument(
        "--host", default="127.0.0.1", help="who can reach it: 127.0.0.1 (default), this machine; 0.0.0.0, all"
    )
    one.add_argument("--port", type=_port, default=8000, help="0: any that is free (default: 8000)")
    one.add_argument(
        "--max-bytes", type=_positive, default=20_000_000, metavar="N", help="of an image (default: 20000000)"
    )
    one.add_argument(
        "--max-pixels", type=_positive, default=4_194_304, metavar="N", help="of an image (default: 4194304)"
    )
    one.add_argument(
        "--timeout",
        type=_positive,
        default=60,
        metavar="SECONDS",
        help="for an image to arrive, or to be answered (default: 60)",
    )
    one.add_argument(
        "--concurrency",
        type=_positive,
        default=16,
        metavar="N",
        help="images in work or waiting; more are told to wait (default: 16)",
    )
    one.add_argument(
        "--cors",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="whose pages may ask too, such as https://example.org; may be repeated",
    )
    one.add_argument("--open", action="store_true", help="open the page in the browser")
    _add_device(one)


def _convert(one: Parser) -> None:
    one.add_argument("checkpoint", metavar="CHECKPOINT", help="a file or its URL; with --to a run, a bundle or a name")
    one.add_argument(
        "--from", dest="layout", choices=("auto", *LAYOUTS), default="auto", help="whose names it has (default: auto)"
    )
    one.add_argument("--to", choices=LAYOUTS, help="write a checkpoint with these names instead of a bundle")
    one.add_argument("--labels", help="the classes: cityscapes, ade20k, voc … or a YAML file (default: by the file)")
    one.add_argument(
        "--multi-grid", type=_dilations, metavar="4,8,16", help="dilations of the last stage's blocks, or none"
    )
    one.add_argument("--output-stride", type=int, metavar="8", help="pixels per place of the last feature map")
    one.add_argument("--align-corners", type=_truth, metavar="true|false", help="how logits are resized")
    one.add_argument("-o", "--output", metavar="PATH", help="the bundle's folder (default: the checkpoint's stem)")


def _export(one: Parser) -> None:
    one.add_argument("--model", metavar="RUN-OR-MODEL", help=MODEL_HELP)
    one.add_argument("--to", choices=("onnx", "page"), required=True, help="a graph, or a site for any static host")
    one.add_argument("-o", "--output", metavar="DIR", help="a new folder (default: the model's name and the format's)")
    one.add_argument("--precision", choices=("float32", "float16"), help="of a graph's weights (default: float32)")
    one.add_argument(
        "--attention",
        choices=("blocks", "whole"),
        help="blocks of queries in a loop, in linear memory, or the whole map, faster in OpenVINO (default: blocks)",
    )


def _info(one: Parser) -> None:
    one.add_argument("model", nargs="*", metavar="MODEL-OR-RUN", help="several runs are also compared")
    one.add_argument(
        "--tensorboard", action="store_true", help="write RUN/tensorboard/ of each run, or bring it up to date"
    )


def _data_show(one: Parser) -> None:
    _add_folder(one)
    one.add_argument("-o", "--output", metavar="FILE", help="a new page (default: FOLDER-data.html)")
    one.add_argument("--count", type=int, default=12, metavar="N", help="so many images (default: 12)")


def _data_tile(one: Parser) -> None:
    one.add_argument("input", metavar="IN", help="images/, masks/ and labels.yaml; or an image, or a folder of images")
    one.add_argument("-o", "--output", required=True, metavar="OUT", help="a new folder")
    one.add_argument("--size", type=int, default=512, metavar="PIXELS", help="a tile's side (default: 512)")
    one.add_argument("--overlap", type=int, default=64, metavar="PIXELS", help="the least (default: 64)")
    one.add_argument(
        "--void", type=float, default=0.95, metavar="SHARE", help="leave out tiles that are more void (default: 0.95)"
    )


def _add_folder(parser: Parser) -> None:
    """A folder of one's own data, or any source's by its fields."""
    parser.add_argument("folder", nargs="?", metavar="DIR", help="images/, masks/ and labels.yaml; short for data.root")
    _add_fields(parser, DataConfig, "data.")


def _add_fields(parser: Parser, section: Any, prefix: str, only: Sequence[str] = ()) -> None:
    """An option for each field of a configuration, or for those named, by its dotted name."""
    group = parser.add_argument_group("fields of the configuration (values as YAML)")
    for name, (default, text) in fields(section, prefix).items():
        if only and name.removeprefix(prefix) not in only:
            continue
        help_text = f"{text} [{default}]".replace("%", "%%").strip()
        group.add_argument(f"--{name}", metavar="VALUE", default=argparse.SUPPRESS, help=help_text)


def _add_device(parser: Parser, default: str | None = "auto") -> None:
    parser.add_argument("--device", default=default, help="cpu, cuda, mps, xpu or auto (the default, but for runs)")
    parser.add_argument(
        "--precision", default=default, help="float32, bfloat16, float16 or auto (the default, but for runs)"
    )


def _point(text: str) -> tuple[int, int]:
    """`120,80` as (x, y)."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no point; write X,Y in pixels, such as 120,80") from None
    return x, y


def _port(text: str) -> int:
    """A port's number."""
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write a number of 0 to 65535")
    return int(text)


def _origin(text: str) -> str:
    """Whose pages: a scheme and a host, or all."""
    if text != "*" and not re.fullmatch(r"https?://[^/\s]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no origin; write scheme and host alone, as https://example.org")
    return text


def _positive(text: str) -> int:
    """A whole number above 0."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _list(text: str) -> list[str]:
    """`a,b` as its parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    """`0,1,2` as numbers."""
    try:
        return [int(part) for part in _list(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers; write them as 0,1,2") from None


def _dilations(text: str) -> tuple[int, ...]:
    """`4,8,16` as numbers; `none` is none."""
    return () if text == "none" else tuple(_numbers(text))


def _truth(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _variation(text: str) -> dict[str, str]:
    """`optim.gate_start=0.1,optim.gate_sign=positive` as fields and values."""
    parts = re.split(r",(?=[^,\]]*=)", text)  # at no comma within a value such as [240, 320]
    found = {field.strip(): value.strip() for field, _, value in (part.partition("=") for part in parts)}
    known = list(fields(RunConfig))
    for field, value in found.items():
        if field not in known:
            raise argparse.ArgumentTypeError(f"there is no field {field!r}. {nearest(field, known)}")
        if not value:
            raise argparse.ArgumentTypeError(f"{text!r} gives {field} no value; write {field}=VALUE")
    return found


GROUPS = {"data": "Look at, check and prepare data sets."}
OPTIONS: dict[str, Callable[[Parser], None]] = {
    "demo": _demo,
    "train": _train,
    "ablate": _ablate,
    "evaluate": _evaluate,
    "predict": _predict,
    "attend": _attend,
    "serve": _serve,
    "convert": _convert,
    "export": _export,
    "data init": _data_init,
    "data check": _data_check,
    "data show": _data_show,
    "data tile": _data_tile,
    "info": _info,
}
