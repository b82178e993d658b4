"""The reference is what the code says now, and the code says what a reference must."""

import ast

import pytest

import danet
from danet.config import RunConfig, fields
from danet.inference.protocol import Protocol
from tests.docs.reference import DOCS, PAGES, PARTS, definition, members, said, source


@pytest.mark.parametrize("name", PAGES)
def test_it_is_what_the_code_says(name):
    mend = "run python -m tests.docs.reference"
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), mend


def test_every_public_name_and_every_setting_is_in_it():
    told = {name for names in PARTS.values() for _, name in names}
    assert told >= {*danet.__all__, *danet.ops.__all__} - {"__version__", "ops", "weights"}
    settings = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for name in [*fields(RunConfig), *(f"protocol.{field}" for field in Protocol.model_fields)]:
        assert f"| `{name}` |" in settings, name


@pytest.mark.parametrize(("module", "name"), [pair for pairs in PARTS.values() for pair in pairs])
def test_every_public_name_says_what_it_is(module, name):
    node = definition(ast.parse(source(module)).body, name)
    assert said(node).split("\n")[0].endswith((".", ":", ",", ")")) or len(said(node)) > 20
    if isinstance(node, ast.ClassDef):
        public = [item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
        described = {member.name for member in members(node)}
        assert {item.name for item in public} - described <= {"forward"}


@pytest.mark.parametrize("section", ["", "model", "data", "optim", "preprocess", "protocol"])
def test_every_field_says_what_it_is(section):
    prefix = f"{section}." if section else ""
    known = {f"protocol.{name}": (None, field.description) for name, field in Protocol.model_fields.items()}
    for name, (_, description) in (fields(RunConfig) | known).items():
        if name.rpartition(".")[0] == section:
            assert description, name
    assert prefix == "" or any(name.startswith(prefix) for name in fields(RunConfig) | known)
