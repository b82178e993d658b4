"""The reference, made from the code: docs/reference.md from docstrings, docs/configuration.md from settings' fields.

`python -m tests.docs.reference` writes both; a test fails when they part from the code.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import danet
from danet.config import RunConfig, Section
from danet.inference.protocol import PROTOCOLS, Protocol

DOCS = Path(__file__).parents[2] / "docs"
BAR = "\\|"  # within a table
CALLED = ("__call__", "__getitem__")
Definition = ast.ClassDef | ast.FunctionDef
PARTS: dict[str, list[tuple[str, str]]] = {
    "`danet`": [(module, name) for name, module in danet._HOME.items()],
    "What they take and give": [
        ("danet.inference.prediction", "Prediction"),
        ("danet.inference.encoding", "Encoding"),
        ("danet.inference.encoding", "ChannelView"),
        ("danet.inference.encoding", "TakeAway"),
        ("danet.models.segmentation", "SegmentationModel"),
        ("danet.models.segmentation", "SegmentationOutput"),
        ("danet.models.attention", "BranchTrace"),
        ("danet.data.labels", "LabelSpace"),
        ("danet.data.dataset", "Dataset"),
        ("danet.evaluation.evaluate", "Report"),
        ("danet.evaluation.evaluate", "ImageScore"),
        ("danet.evaluation.metrics", "Scores"),
        ("danet.training.events", "Initialised"),
        ("danet.training.events", "Step"),
        ("danet.training.events", "Validated"),
        ("danet.training.events", "Saved"),
    ],
    "`danet.ops`": [
        (f"danet.ops.{'position' if name.startswith('position') else 'channel'}", name) for name in danet.ops.__all__
    ],
    "`danet.weights`": [("danet.weights.layouts", "rename")],
}


REFERENCE = (
    "Made from the code by `python -m tests.docs.reference`; a test fails when they part. Shapes are jaxtyping's: "
    '`Float[Tensor, "b c h w"]` is a tensor of floating-point numbers, b×c×h×w. What people can mend is a '
    "`danet.InputError`, one line. The fields of runs and protocols are in [configuration.md](configuration.md)."
)
CONFIGURATION = (
    "Made from the code by `python -m tests.docs.reference`; a test fails when they part. A run's fields stand in a "
    "recipe's YAML, by section, and on the command line by their dotted names, with YAML values: `danet train "
    "camvid-r18 --optim.steps 500 --data.crop '[160, 208]'`. `danet train RECIPE --print_config` shows all that a run "
    "will use; unknown fields and values are refused in one line.\n\n`Count` is a whole number of 1 or more, `Side` "
    "one of 32 or more (pixels), `Share` a number from 0 to 1, `Rate` one of 0 or more, `Positive` one above 0."
)


@cache
def source(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


def definition(body: list[ast.stmt], name: str) -> Definition:
    """The last definition of a name: those before it are overloads."""
    return [node for node in body if isinstance(node, Definition) and node.name == name][-1]


def head(module: str, node: Definition) -> str:
    """A function as it is written, or a class with its fields, without what follows."""
    lines = source(module).splitlines()
    if isinstance(node, ast.FunctionDef):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return textwrap.dedent("\n".join(lines[first - 1 : node.body[0].lineno - 1])).removesuffix(":")
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    starts = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    shown = "".join(f"\n    {ast.get_source_segment(source(module), field)}" for field in fields)
    shown += "".join(f"\n{textwrap.indent(head(module, start), '    ')}" for start in starts)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return f"class {node.name}{f'({bases})' if bases else ''}{':' if shown else ''}{shown}"


def members(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Public methods and properties that say what they are, and what calling and indexing do."""
    for item in node.body:
        public = isinstance(item, ast.FunctionDef) and (item.name in CALLED or not item.name.startswith("_"))
        if isinstance(item, ast.FunctionDef) and public and ast.get_docstring(item):
            yield item


def described(module: str, name: str) -> str:
    """A public name: where it is, how it is written, what it and its parts say of themselves."""
    node = definition(ast.parse(source(module)).body, name)
    parts = [f"### {name}", f"[{module}](../src/{module.replace('.', '/')}.py)", fenced(head(module, node))]
    parts.append(said(node))
    for member in members(node) if isinstance(node, ast.ClassDef) else ():
        parts += [fenced(head(module, member)), said(member)]
    return "\n\n".join(parts)


def fenced(text: str) -> str:
    return f"```py\n{text}\n```"


def said(node: Definition) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")


def reference() -> str:
    """docs/reference.md."""
    parts = ["# Reference", REFERENCE]
    for title, names in PARTS.items():
        parts += [f"## {title}", *(described(module, name) for module, name in names)]
    return "\n\n".join(parts) + "\n"


def table(section: type[Section], prefix: str = "") -> str:
    """The fields of one section that hold values, their types as they are written."""
    written = {}
    for one in [base for base in reversed(section.__mro__) if issubclass(base, Section)]:
        node = definition(ast.parse(source(one.__module__)).body, one.__name__)
        written |= {ast.unparse(item.target): item.annotation for item in node.body if isinstance(item, ast.AnnAssign)}
    rows = [
        (f"`{prefix}{name}`", f"`{ast.unparse(written[name])}`", f"`{field.default!r}`", one_line(field.description))
        for name, field in section.model_fields.items()
        if not isinstance(field.default, Section)
    ]
    lines = [("field", "values", "default", ""), ("---",) * 4, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |" for line in lines)


def one_line(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split())


def configuration() -> str:
    """docs/configuration.md."""
    parts = ["# Every setting", CONFIGURATION, "## A run", table(RunConfig)]
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.default, Section):
            section = type(field.default)
            parts += [f"## `{name}`", one_line(section.__doc__), table(section, f"{name}.")]
    parts += [
        "## A protocol",
        f"{one_line(Protocol.__doc__)} As in `danet evaluate RUN --protocol mmseg-slide --protocol.flip true`.",
        f"By name: {', '.join(f'`{name}`' for name in PROTOCOLS)} ([guides/evaluate.md](guides/evaluate.md)).",
        table(Protocol, "protocol."),
    ]
    return "\n\n".join(parts) + "\n"


PAGES = {"reference.md": reference, "configuration.md": configuration}

if __name__ == "__main__":
    for name, made in PAGES.items():
        (DOCS / name).write_text(made(), encoding="utf-8")
