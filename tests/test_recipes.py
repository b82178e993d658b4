"""Recipes: `like`, that each can be read and built, what it says of its source, and mmsegmentation's own values.

`python -m tests.test_recipes` writes the table of docs/recipes.md, which a test compares with the recipes.
"""

import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from danet.config import ModelConfig, RunConfig, read_config, recipes
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.models.layers import Classifier
from danet.models.segmentation import SegmentationModel, build_model

DOCS = Path(__file__).parent.parent / "docs" / "recipes.md"
START, END = "<!-- recipes: python -m tests.test_recipes -->\n", "<!-- end of recipes -->\n"
SAMPLES = {"cityscapes": 2975, "voc-sbd": 10582, "pascal-context-60": 4998, "cocostuff-10k": 9000}
"""Training images of the published data sets."""
AUTHORS = [
    "cityscapes-r50",
    "cityscapes-r101",
    "cityscapes-dranet-r101",
    *(f"{data}-{depth}" for data in ("voc", "pascal-context", "cocostuff-10k") for depth in ("r50", "r101")),
]
OWN = [
    "demo",
    "street-tiny",
    "street-small",
    "camvid-r18",
    "camvid-r18d",
    "camvid-r18d-whole",
    "camvid-r50",
    "camvid-32-r50",
]
OWN += ["modern-convnext", "modern-dinov3"]
SOURCE = re.compile(
    r"junfu1115/DANet|DANet#\d+|mmsegmentation|configs/[\w/]+\.py|results/README\.md|benchmarks/\w+\.py|`danet demo`"
)


class Row(NamedTuple):
    """A configuration in mmsegmentation 1.2.2's configs/danet, its _base_ files resolved, and its row of README.md."""

    config: str
    source: str
    crop: tuple[int, int]
    batch: int
    steps: int
    align_corners: bool
    miou: str
    multi_scale: str = ""

    @property
    def recipe(self) -> str:
        """danet_r50-d8_4xb2-40k_cityscapes-512x1024: mmseg-cityscapes-r50-512x1024-40k."""
        _, depth, _, _, schedule, data, crop = re.split(r"[_-]", self.config)
        return f"mmseg-{data.removesuffix('12aug')}-{depth}-{crop}-{schedule}"


MMSEG = [
    Row("danet_r50-d8_4xb2-40k_cityscapes-512x1024", "cityscapes", (512, 1024), 8, 40_000, False, "78.74"),
    Row("danet_r101-d8_4xb2-40k_cityscapes-512x1024", "cityscapes", (512, 1024), 8, 40_000, False, "80.52"),
    Row("danet_r50-d8_4xb2-40k_cityscapes-769x769", "cityscapes", (769, 769), 8, 40_000, True, "78.88", "80.62"),
    Row("danet_r101-d8_4xb2-40k_cityscapes-769x769", "cityscapes", (769, 769), 8, 40_000, True, "79.88", "81.47"),
    Row("danet_r50-d8_4xb2-80k_cityscapes-512x1024", "cityscapes", (512, 1024), 8, 80_000, False, "79.34"),
    Row("danet_r101-d8_4xb2-80k_cityscapes-512x1024", "cityscapes", (512, 1024), 8, 80_000, False, "80.41"),
    Row("danet_r50-d8_4xb2-80k_cityscapes-769x769", "cityscapes", (769, 769), 8, 80_000, True, "79.27", "80.96"),
    Row("danet_r101-d8_4xb2-80k_cityscapes-769x769", "cityscapes", (769, 769), 8, 80_000, True, "80.47", "82.02"),
    Row("danet_r50-d8_4xb4-80k_ade20k-512x512", "ade20k", (512, 512), 16, 80_000, False, "41.66", "42.90"),
    Row("danet_r101-d8_4xb4-80k_ade20k-512x512", "ade20k", (512, 512), 16, 80_000, False, "43.64", "45.19"),
    Row("danet_r50-d8_4xb4-160k_ade20k-512x512", "ade20k", (512, 512), 16, 160_000, False, "42.45", "43.25"),
    Row("danet_r101-d8_4xb4-160k_ade20k-512x512", "ade20k", (512, 512), 16, 160_000, False, "44.17", "45.02"),
    Row("danet_r50-d8_4xb4-20k_voc12aug-512x512", "voc-sbd", (512, 512), 16, 20_000, False, "74.45", "75.69"),
    Row("danet_r101-d8_4xb4-20k_voc12aug-512x512", "voc-sbd", (512, 512), 16, 20_000, False, "76.02", "77.23"),
    Row("danet_r50-d8_4xb4-40k_voc12aug-512x512", "voc-sbd", (512, 512), 16, 40_000, False, "76.37", "77.29"),
    Row("danet_r101-d8_4xb4-40k_voc12aug-512x512", "voc-sbd", (512, 512), 16, 40_000, False, "76.51", "77.32"),
]
MMSEG_RECIPES = [row.recipe for row in MMSEG]


def text_of(recipe: str) -> str:
    """A packaged recipe's file."""
    return (resources.files("danet.recipes") / f"{recipe}.yaml").read_text(encoding="utf-8")


def classes_of(config: RunConfig) -> int:
    """How many classes a recipe's data have."""
    return LabelSpace.load({"voc-sbd": "voc"}.get(config.data.source, config.data.source)).num_classes


@cache
def built(config: str) -> SegmentationModel:
    """The model of a configuration as JSON, without memory for its weights."""
    with torch.device("meta"):
        return build_model(ModelConfig.model_validate_json(config))


# What a recipe may be like


def test_a_recipe_is_like_another_but_for_what_it_says(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "like: camvid-r50\nname: mine\nmodel: {backbone: resnet101}\nvalidate_every: 7\n"
    )
    base, mine = read_config("camvid-r50"), read_config(tmp_path / "mine.yaml")
    changed = {"name": "mine", "validate_every": 7, "model": base.model.model_copy(update={"backbone": "resnet101"})}
    assert mine == base.model_copy(update=changed)
    assert mine.model.model_fields_set == base.model.model_fields_set  # what nobody said is still for the data to say


def test_the_command_line_goes_before_both(tmp_path):
    (tmp_path / "mine.yaml").write_text("like: camvid-r50\noptim: {lr: 0.5, steps: 5}\n")
    mine = read_config(tmp_path / "mine.yaml", {"optim.lr": "0.25"})
    assert (mine.optim.lr, mine.optim.steps, mine.optim.momentum) == (0.25, 5, read_config("camvid-r50").optim.momentum)


def test_likeness_goes_on_through_files_beside_each_other(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.yaml").write_text("like: demo\noptim: {lr: 0.5, steps: 5}\ndata: {crop: [64, 96]}\n")
    (tmp_path / "deep" / "middle.yaml").write_text("like: ../base.yaml\noptim: {steps: 6}\n")
    (tmp_path / "deep" / "top.yml").write_text("like: middle.yaml\noptim: {warmup: 7}\n")
    top, demo = read_config(tmp_path / "deep" / "top.yml"), read_config("demo")
    assert (top.optim.lr, top.optim.steps, top.optim.warmup) == (0.5, 6, 7)
    assert (top.data.crop, top.data.batch_size) == ((64, 96), demo.data.batch_size)
    assert (top.model, top.name) == (demo.model, "demo")


def test_a_printed_recipe_stands_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text("like: cityscapes-r101\noptim: {steps: 5}\n")
    config = read_config(tmp_path / "mine.yaml")
    (tmp_path / "printed.yaml").write_text(config.to_yaml())
    assert "like:" not in config.to_yaml()
    assert read_config(tmp_path / "printed.yaml") == config


def test_what_a_source_reports_is_not_true_of_what_is_like_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("like: cityscapes-r101\noptim: {steps: 5}\n")
    assert read_config("cityscapes-r101").expected
    assert read_config(tmp_path / "mine.yaml").expected == ""


def test_nothing_is_like_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text("like:\noptim: {steps: 5}\n")
    assert read_config(tmp_path / "mine.yaml").optim.steps == 5


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"mine": "like: camvid-r5"},
            ("mine.yaml: like is 'camvid-r5'", "there is no recipe", "Did you mean camvid-r50?"),
        ),
        ({"mine": "like: base.yaml"}, ("base.yaml", "No such file")),
        ({"mine": "like: [demo]"}, ("mine.yaml: like is ['demo']", "a recipe's name", "a YAML file")),
        ({"mine": "like: mine.yaml"}, ("mine.yaml: like is 'mine.yaml'", "take one `like` out")),
        (
            {"mine": "like: a.yaml", "a": "like: b.yaml", "b": "like: ./a.yaml"},
            ("b.yaml: like is './a.yaml', which is like it in turn", "take one `like` out"),
        ),
        ({"mine": "like: a.yaml", "a": "optim: {lrr: 1}"}, ("mine.yaml, like a.yaml: ", "Did you mean optim.lr?")),
        ({"mine": "like: a.yaml", "a": "[1, 2]"}, ("a.yaml holds list",)),
        ({"mine": "like: demo\nmodel: 3"}, ("mine.yaml, like demo: model is 3",)),
        ({"mine": "like: a.yaml\noptim: {lr: 1}", "a": "optim: 3\nlike: demo\nseed: x"}, ("mine.yaml, like a.yaml, ",)),
    ],
)
def test_faults_of_likeness_are_one_line(files, words, tmp_path):
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


# The packaged recipes


def test_these_are_all():
    assert recipes() == sorted([*AUTHORS, *OWN, *MMSEG_RECIPES])


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_read_printed_and_built(name, tmp_path):
    config = read_config(name)
    assert (config.name, config.data.root) == (name, None)
    assert config.init is None or config.init.removeprefix("runs/") in recipes()  # the run that another one leaves
    assert "num_classes" not in config.model.model_fields_set  # the data say it
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert read_config(tmp_path / "config.yaml") == config
    count = classes_of(config)
    model = built(config.model.model_copy(update={"num_classes": count, "pretrained": False}).model_dump_json())
    assert {layer.out_channels for layer in model.modules() if isinstance(layer, Classifier)} == {count}
    assert (model.auxiliary is not None) == config.model.auxiliary
    assert config.validate_every <= config.optim.steps


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_names_its_source(name):
    comments = [line.partition("#")[2] for line in text_of(name).splitlines() if "#" in line]
    assert SOURCE.search("\n".join(comments)), comments


@pytest.mark.parametrize("name", [*AUTHORS, *MMSEG_RECIPES])
def test_what_reproduces_says_of_each_value_where_it_is_from(name):
    told = False  # whether a comment above it, in the same section, tells of the line
    for line in text_of(name).partition("\nmodel:")[2].splitlines():
        if not line.startswith(" "):
            told = "#" in line
        elif line.strip().startswith("#"):
            told = True
        else:
            assert told or "#" in line, line


@pytest.mark.parametrize("name", [*AUTHORS, *MMSEG_RECIPES])
def test_scores_say_whose_they_are(name):
    expected = read_config(name).expected
    if expected:
        assert re.fullmatch(
            r"\d\d\.\d+ % mIoU on .+ \(.*(junfu1115/DANet|mmsegmentation 1\.2\.2|DANet#|arXiv:1809).*\)", expected
        )
        assert "theirs, not measured here" in expected
    else:
        assert "could not be checked" in " ".join(text_of(name).replace("#", " ").split())


# The authors'


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_settings(name):
    config = read_config(name)
    optim, model, data = config.optim, config.model, config.data
    assert (optim.optimizer, optim.momentum, optim.weight_decay, optim.gate_decay) == ("sgd", 0.9, 1e-4, 1e-4)
    assert (optim.schedule, optim.power, optim.end_lr, optim.warmup, optim.head_factor) == ("poly", 0.9, 0, 0, 10)
    assert (optim.gate_factor, optim.branch_weight) == (1, 1)
    assert optim.lr == (0.002 if model.head == "dranet" else 0.003 if data.source == "cityscapes" else 0.001)
    assert (model.output_stride, model.multi_grid, model.align_corners, model.dropout) == (8, (4, 8, 16), True, 0.1)
    assert (data.photometric, data.max_class_share, data.flip) == (0, 1, 0.5)
    epochs = {"cityscapes": 240, "voc-sbd": 50}.get(data.source, 80)
    assert optim.steps == epochs * (SAMPLES[data.source] // data.batch_size)
    assert (data.crop[0], data.batch_size) == ((768, 8) if data.source == "cityscapes" else (576, 16))
    assert config.preprocess.longest == (2048 if data.source == "cityscapes" else 608)
    assert ("r101" in name) == model.backbone.startswith("resnet101")
    assert model.pretrained is True


def test_only_dranet_has_a_deep_stem_and_an_auxiliary_head():
    config = read_config("cityscapes-dranet-r101")
    assert (config.optim.auxiliary_weight, config.data.scale) == (0.2, (0.5, 2.0))
    assert read_config("cityscapes-r101").data.scale == (0.75, 2.0)
    dranet, danet = config.model, read_config("cityscapes-r101").model
    assert (dranet.head, dranet.backbone, dranet.auxiliary) == ("dranet", "resnet101s", True)
    assert (danet.head, danet.backbone.split(".")[0], danet.auxiliary) == ("danet", "resnet101", False)


# mmsegmentation's


@pytest.mark.parametrize("row", MMSEG, ids=MMSEG_RECIPES)
def test_mmsegmentations_settings(row):
    config = read_config(row.recipe)
    model, data, optim = config.model, config.data, config.optim
    assert (data.source, data.crop, data.batch_size) == (row.source, row.crop, row.batch)
    assert (optim.steps, config.validate_every) == (row.steps, row.steps // 10)
    # _base_/models/danet_r50-d8.py
    assert (model.head, model.align_corners, model.multi_grid) == ("danet", row.align_corners, ())
    assert model.backbone == ("resnet50c" if "r50" in row.config else "resnet101c")
    assert (model.output_stride, model.auxiliary, model.dropout, model.pretrained) == (8, True, 0.1, True)
    assert (optim.branch_weight, optim.auxiliary_weight) == (1, 0.4)
    # _base_/schedules/schedule_*.py
    assert (optim.optimizer, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (optim.schedule, optim.power, optim.end_lr, optim.warmup, optim.clip) == ("poly", 0.9, 1e-4, 0, 0)
    assert (optim.head_factor, optim.gate_factor, optim.gate_decay) == (1, 1, 5e-4)
    # _base_/datasets/*.py; VOC's images, mostly of 500×375, are enlarged to a shorter side of 512
    enlarged = 512 / 375 if row.source == "voc-sbd" else 1
    assert data.scale == pytest.approx((0.5 * enlarged, 2.0 * enlarged), abs=0.01)
    assert (data.max_class_share, data.flip, data.photometric) == (0.75, 0.5, 0.35)
    assert row.config in text_of(row.recipe)


@pytest.mark.parametrize("row", MMSEG, ids=MMSEG_RECIPES)
def test_mmsegmentations_scores(row):
    expected = read_config(row.recipe).expected
    assert expected.startswith(f"{row.miou} % mIoU on val, ")
    assert (f"{row.multi_scale} % with several scales" in expected) == bool(row.multi_scale)
    assert ("windows of 769×769" in expected) == row.align_corners


# The table


def table() -> str:
    """The table of docs/recipes.md."""
    rows = ["| recipe | data | network | crop | batch | steps | expected | whose |", f"|{' --- |' * 8}"]
    for name in recipes():
        config = read_config(name)
        expected, _, whose = config.expected.rpartition(" (")
        stride = config.model.output_stride
        network = [config.model.head, config.model.backbone, f"stride {stride}" if stride else "its own stride"]
        network += [f"grid {', '.join(map(str, config.model.multi_grid))}"] if config.model.multi_grid else []
        cells = [
            f"[{name}](../src/danet/recipes/{name}.yaml)",
            f"{config.data.source}, {classes_of(config)} classes",
            ", ".join(network),
            "×".join(map(str, config.data.crop)),
            str(config.data.batch_size),
            f"{config.optim.steps:,}",
            expected,
            whose.removesuffix(")"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def test_the_documentation_tells_what_the_recipes_say():
    text = DOCS.read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0] == table(), "python -m tests.test_recipes writes it anew"


if __name__ == "__main__":
    before, _, after = DOCS.read_text(encoding="utf-8").partition(START)
    DOCS.write_text(before + START + table() + END + after.partition(END)[2], encoding="utf-8")
