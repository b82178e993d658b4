"""docs/architecture.md: what it says how to add does run, and the files that it names are there."""

import re

import timm

from tests.docs.pages import LEARN, alike, run

PAGE = LEARN.parent / "architecture.md"


def test_a_head_a_backbone_a_data_set_and_a_loss_are_added_in_a_few_lines(monkeypatch):
    monkeypatch.setattr(timm.models._registry, "_model_entrypoints", dict(timm.models._registry._model_entrypoints))
    page = PAGE.read_text(encoding="utf-8")
    told = [(following.text, printed) for _, following, printed in run(page, PAGE.name) if following is not None]
    assert len(told) == 4
    for said, printed in told:
        assert alike(said, printed), printed


def test_files_that_the_picture_names_are_there():
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"(\w+/[\w/]+\.py)", page.split("```mermaid")[1].split("```")[0])
    assert len(named) > 5
    for name in named:
        assert (LEARN.parents[1] / "src" / "danet" / name).is_file(), name
