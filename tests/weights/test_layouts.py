"""Rename tables: every published name both ways, bit for bit; and the attention modules of anyone's network."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import danet
from danet.errors import InputError
from danet.models.segmentation import create_model
from danet.weights.layouts import rename

GOLDEN = Path(__file__).parents[1] / "golden"
README = Path(__file__).parents[2] / "README.md"


class PAM_Module(nn.Module):
    """As encoding/nn/da_att.py names and computes it."""

    def __init__(self, channels):
        super().__init__()
        self.query_conv, self.key_conv = nn.Conv2d(channels, channels // 8, 1), nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x):
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        attention = (query.mT @ key).softmax(-1)
        return self.gamma * (value @ attention.mT).view_as(x) + x


class CAM_Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x):
        energy = x.flatten(2) @ x.flatten(2).mT
        attention = (energy.max(-1, keepdim=True)[0] - energy).softmax(-1)
        return self.gamma * (attention @ x.flatten(2)).view_as(x) + x


def same(first, second):
    return list(first) == list(second) and all(
        first[name].shape == second[name].shape and torch.equal(first[name], second[name]) for name in first
    )


def published(name):
    tensors = json.loads((GOLDEN / f"{name}.json").read_text())["tensors"]
    return {key: torch.tensor(float(index)).expand(shape) for index, (key, shape) in enumerate(tensors)}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("original-danet-r50", {}),
        ("original-dranet-r50", dict(head="dranet", backbone="resnet50s", auxiliary=True)),
        ("mmseg-danet-r50", dict(backbone="resnet50c", auxiliary=True)),
    ],
)
def test_published_names_are_all_of_ours_and_come_back(name, settings):
    layout, state = name.partition("-")[0], published(name)
    ours = rename(state, layout)
    with torch.device("meta"):
        model = create_model(**settings)
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert same(rename(ours, layout, reverse=True), state)


def test_a_plain_stem_and_an_auxiliary_head_come_back_in_both_layouts():
    with torch.device("meta"):
        model = create_model("danet", "resnet18", auxiliary=True)
    state = {key: torch.full(value.shape, 2.0) for key, value in model.state_dict().items()}
    for layout, stem, auxiliary in (
        ("original", "pretrained.conv1.weight", "auxlayer.conv5.4.bias"),
        ("mmseg", "backbone.conv1.weight", "auxiliary_head.conv_seg.bias"),
    ):
        theirs = rename(state, layout, reverse=True)
        assert {stem, auxiliary} <= set(theirs)
        assert len(theirs) == len(state)
        assert same(rename(theirs, layout), state)


class Network(nn.Module):
    """A user's: the modules somewhere inside, one at the top, and names that only look like theirs."""

    def __init__(self, position, channel):
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(position, channel), nn.BatchNorm2d(16)])
        self.scale = nn.ParameterDict({"gamma": torch.ones(16)})
        self.other = nn.ModuleDict({"query_conv": nn.Conv2d(2, 2, 1), "query": nn.Conv2d(2, 2, 1)})

    def forward(self, x):
        return self.stages[0](x)


def test_modules_at_any_depth_both_ways():
    torch.manual_seed(0)
    theirs, ours = Network(PAM_Module(16), CAM_Module()), Network(danet.PositionAttention(16), danet.ChannelAttention())
    renamed = rename(theirs.state_dict(), "original")
    ours.load_state_dict(renamed)
    x = torch.randn(2, 16, 5, 7)
    assert (ours(x) - theirs(x)).abs().max() < 1e-5
    assert {"scale.gamma", "other.query_conv.weight", "other.query.weight"} <= set(renamed)
    assert same(rename(ours.state_dict(), "original", reverse=True), theirs.state_dict())
    alone = PAM_Module(16).state_dict()
    assert set(rename(alone, "original")) == set(danet.PositionAttention(16).state_dict())


def test_the_lines_of_the_readme(tmp_path, monkeypatch):
    section = README.read_text(encoding="utf-8").partition("## Coming from PAM_Module")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    torch.manual_seed(0)
    theirs = nn.ModuleDict({"sa": PAM_Module(512), "sc": CAM_Module()})
    monkeypatch.chdir(tmp_path)
    torch.save(theirs.state_dict(), "mine.pth")
    names = {}
    exec(code, names)
    x = torch.randn(1, 512, 4, 6)
    for name in ("sa", "sc"):
        assert (names["network"][name](x) - theirs[name](x)).abs().max() < 1e-3, name
    assert same(names["back"], theirs.state_dict())


def test_what_cannot_be_renamed_is_one_line():
    with pytest.raises(InputError, match=r"^There is no layout 'timm'; known: original, mmseg\.$"):
        rename({}, "timm")
    twice = {"gate": torch.zeros(1), "gamma": torch.zeros(1)}
    with pytest.raises(InputError, match=r"^gamma and another tensor would both be called gate; take one"):
        rename(twice, "original")
