"""One step: parts that add up to the batch, precisions, what is frozen; all else changes nothing that is learnt."""

import copy
import math
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from danet.config import RunConfig, read_config
from danet.errors import InputError
from danet.models.segmentation import build_model
from danet.training import checkpointing
from danet.training.checkpointing import blocks, fine
from danet.training.losses import Criterion
from danet.training.norm import norms
from danet.training.state import State
from danet.training.step import Stepper

CPU = torch.device("cpu")
ALL = Criterion(torch.tensor([0.5, 2.0, 7.0]), 0.1, 0.4, 0.3, 0.7, 0.9)


def config(**fields: object) -> RunConfig:
    """A small run of three classes, without chance in its network."""
    told = {
        "model.backbone": "resnet18",
        "model.out_indices": "[1, 2]",
        "model.channels": "8",
        "model.num_classes": "3",
        "model.dropout": "0",
        "model.auxiliary": "true",
        "data.batch_size": "4",
        "optim.optimizer": "sgd",
        "optim.lr": "0.1",
        "optim.gate_start": "0.5",
        "precision": "float32",
    }
    return read_config(None, told | {name.replace("__", "."): str(value) for name, value in fields.items()})


def stepper(run: RunConfig, criterion: Criterion = ALL) -> Stepper:
    torch.manual_seed(0)
    model = build_model(run.model)
    for norm in norms(model):  # statistics as of a network that has learned
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    return Stepper(run, State.of(model, run, CPU), criterion, CPU, run.precision)


@pytest.fixture
def batch():
    """Four images, the first without any label, the others with more and more."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (4, 3, 48, 64), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 3, (4, 48, 64), generator=generator)
    for index, rows in enumerate((48, 40, 20, 0)):
        masks[index, :rows] = 255
    return images, masks, ["a", "b", "c", "d"]


def steps(run, batch, count=2, criterion=ALL):
    taken = stepper(run, criterion)
    losses = [taken.step(number, *batch).losses for number in range(count)]
    return losses, taken.state.model


def assert_same(one, other, tolerance=1e-5):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch(batch, parts):
    whole, model = steps(config(optim__norm="frozen"), batch)
    cut, other = steps(config(optim__norm="frozen", optim__accumulate=parts), batch)
    for one, two in zip(whole, cut, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    assert set(whole[0]) == {"fused", "position", "channel", "auxiliary"}
    assert_same(model, other)


def test_checkpointing_changes_nothing_that_is_learnt(batch):
    plain, model = steps(config(), batch)
    other_losses, other = steps(config(checkpointing=True), batch)
    for one, two in zip(plain, other_losses, strict=True):
        assert two == pytest.approx(one, rel=1e-6)
    assert_same(model, other, 1e-6)  # running statistics and their counters among it
    assert not any("forward" in vars(module) for module in other.modules())


@pytest.mark.parametrize(
    ("backbone", "kind", "count"),
    [("resnet18", "BasicBlock", 6), ("test_convnext", "ConvNeXtBlock", None), ("test_vit", "Block", None)],
)
def test_blocks_are_what_a_network_repeats(backbone, kind, count):
    indices = "[2, 3]" if backbone == "resnet18" else "[-2, -1]"
    model = build_model(config(model__backbone=backbone, model__out_indices=indices).model)
    found = blocks(model.backbone)
    assert {type(block).__name__ for block in found} == {kind}
    assert count is None or len(found) == count


def test_checkpointing_keeps_less(batch):
    kept = {}
    for on in (False, True):
        taken = stepper(config(checkpointing=on))
        saved = []

        def note(tensor, saved=saved):
            saved.append(weakref.ref(tensor))
            return tensor

        images = batch[0].float()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            losses = taken.losses(images, batch[1], torch.ones(2))
        alive = [tensor for tensor in (reference() for reference in saved) if tensor is not None]
        assert losses
        kept[on] = sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in alive}.values())
    assert kept[True] < 0.6 * kept[False]


def test_only_blocks_on_fine_and_large_maps_are_computed_anew_unasked(batch, monkeypatch):
    """Of a ResNet these are the first stage, at stride 4, and what begins the second."""
    assert fine(torch.Size((1, 3, 96, 128)), torch.zeros(1, 4096, 24, 32))
    assert not fine(torch.Size((1, 3, 96, 128)), torch.zeros(1, 64, 24, 32))  # not worth it
    assert not fine(torch.Size((1, 3, 96, 128)), torch.zeros(1, 2**16, 12, 16))
    plain_losses, plain = steps(config(), batch)
    anew = []

    def noted(forward, *inputs, **settings):
        anew.append(forward.__self__)
        return checkpoint(forward, *inputs, **settings)

    monkeypatch.setattr(checkpointing, "LARGE", 1)
    monkeypatch.setattr(checkpointing, "checkpoint", noted)
    losses, model = steps(config(), batch)
    backbone = model.backbone
    assert set(anew) == {*backbone.layer1, backbone.layer2[0]}
    for one, two in zip(plain_losses, losses, strict=True):
        assert two == pytest.approx(one, rel=1e-6)
    assert_same(plain, model, 1e-6)


def test_half_precision_learns_as_single(batch):
    losses = {name: steps(config(precision=name), batch)[0] for name in ("float32", "bfloat16", "float16")}
    for name, tolerance in (("bfloat16", 0.03), ("float16", 0.01)):
        assert losses[name] != losses["float32"]
        for one, two in zip(losses["float32"], losses[name], strict=True):
            assert two == pytest.approx(one, rel=tolerance)


def test_a_float16_step_that_overflows_is_left_out_and_the_next_is_scaled_less(batch):
    taken = stepper(config(precision="float16"), Criterion())
    taken.state.scaler.load_state_dict(taken.state.scaler.state_dict() | {"scale": 2.0**40})
    before = copy.deepcopy(taken.state.model.state_dict())
    taken.step(0, *batch)
    after = taken.state.model.state_dict()
    parameters = [name for name, _ in taken.state.model.named_parameters()]
    assert all(torch.equal(after[name], before[name]) for name in parameters)
    assert taken.state.scaler.get_scale() == 2.0**39
    taken.state.scaler.load_state_dict(taken.state.scaler.state_dict() | {"scale": 2.0**8})
    taken.step(1, *batch)
    assert not torch.equal(taken.state.model.state_dict()[parameters[0]], before[parameters[0]])


def test_a_float16_gradient_that_is_never_finite_ends_the_run(batch):
    taken = stepper(config(precision="float16"), Criterion())
    taken.state.scaler.load_state_dict(taken.state.scaler.state_dict() | {"scale": 1.0})
    for parameter in taken.state.model.head.classifier.parameters():
        parameter.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(InputError, match=r"gradient nan in step 1 .* a, b, c, d"):
        taken.step(0, *batch)


def test_a_frozen_backbone_stays_as_it_is(batch):
    run = config(freeze="backbone")
    before = stepper(run).state.model.state_dict()
    _, model = steps(run, batch)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("backbone.") for name in changed)
    assert "head.classifier.weight" in changed
    assert "head.position_in.norm.running_mean" in changed


def test_frozen_norms_learn_their_weights_and_no_statistics(batch):
    run = config(optim__norm="frozen")
    before = stepper(run).state.model.state_dict()
    _, model = steps(run, batch)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "backbone.bn1.weight" in changed
    assert not any("running" in name or "tracked" in name for name in changed)


def test_clipping_bounds_the_step(batch):
    moved = {}
    for clip in (0, 1e-3):
        run = config(optim__clip=clip, optim__momentum=0, optim__weight_decay=0, optim__gate_factor=1)
        before = stepper(run).state.model.state_dict()
        _, model = steps(run, batch, count=1)
        pairs = [(before[name], tensor.detach()) for name, tensor in model.named_parameters()]
        moved[clip] = math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs))
    assert moved[1e-3] == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert moved[0] > 10 * moved[1e-3]


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(batch):
    plain, model = steps(config(), batch)
    compiled, other = steps(config(compile=True), batch)
    for one, two in zip(plain, compiled, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert_same(model, other, 1e-4)
