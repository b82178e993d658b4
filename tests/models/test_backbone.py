"""Every family of backbones under one contract: any size in, the same size out, maps that lie where the pixels are."""

import os
import socket
import subprocess
import sys

import huggingface_hub
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from danet.errors import InputError
from danet.models.backbone import create_backbone, examine
from danet.models.segmentation import create_model

# Each family's member, its stride by default, and the multiple that its inputs are padded to.
FAMILIES = {
    "resnet18": (8, 1),
    "resnet50c": (8, 1),
    "resnet50s": (8, 1),
    "resnet14t": (8, 1),
    "resnet26d": (8, 1),
    "resnext50_32x4d": (8, 1),
    "resnest14d": (8, 1),
    "convnext_atto": (8, 8),
    "efficientnet_b0": (8, 1),
    "mobilenetv3_small_050": (8, 1),
    "hrnet_w18_small": (32, 32),
    "swin_tiny_patch4_window7_224": (32, 32),
    "pvt_v2_b0": (32, 1),
    "vit_tiny_patch16_224": (16, 16),
    "vit_small_patch16_dinov3": (16, 16),
    "eva02_tiny_patch14_224": (14, 14),
    "test_vit": (16, 16),
}
PADDED = ["convnext_atto", "hrnet_w18_small", "swin_tiny_patch4_window7_224", "test_vit", "eva02_tiny_patch14_224"]


def ceil(side: int, cell: int) -> int:
    return -(-side // cell)


def trained(name, **settings):
    """A network whose maps differ from place to place."""
    torch.manual_seed(0)
    return create_model("fcn", name, 3, channels=8, **settings).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_in_the_same_size_out(name):
    stride, step = FAMILIES[name]
    model = trained(name)
    assert model.anatomy.step == step
    for height, width in ((33, 47), (64, 96), (65, 97)):
        images = torch.randn(1, 3, height, width)
        with torch.no_grad():
            output, maps = model(images), model.extract(images)
        assert output.logits.shape == (1, 3, height, width)
        assert output.logits.isfinite().all()
        assert output.logits.std() > 0
        assert maps[-1].shape[-2:] == (ceil(height, stride), ceil(width, stride))
        assert [features.shape[1] for features in maps] == list(model.anatomy.widths)


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        *(("resnet18", stride) for stride in (8, 16, 32)),
        *(("convnext_atto", stride) for stride in (8, 16, 32)),
        ("efficientnet_b0", 16),
        ("hrnet_w18_small", 32),
        ("swin_tiny_patch4_window7_224", 32),
        ("test_vit", 16),
    ],
)
def test_the_stride_that_was_asked_for(name, stride):
    model = trained(name, output_stride=stride)
    assert model.extract(torch.randn(1, 3, 65, 97))[-1].shape[-2:] == (ceil(65, stride), ceil(97, stride))


@pytest.mark.parametrize(
    ("name", "stride", "gives"),
    [
        ("resnet18", 12, "8, 16 or 32"),
        ("hrnet_w18_small", 8, "32"),
        ("swin_tiny_patch4_window7_224", 16, "32"),
        ("test_vit", 32, "16"),
    ],
)
def test_another_stride_is_refused_with_those_that_it_gives(name, stride, gives):
    with pytest.raises(InputError) as caught:
        examine(name, output_stride=stride)
    assert str(caught.value) == (
        f"model.output_stride is {stride}, but {name} gives {gives}: set model.output_stride {gives}, or leave it out."
    )


@pytest.mark.parametrize(
    ("name", "indices", "stride", "cells"),
    [("resnet18", (1, 2), 8, (4, 8)), ("hrnet_w18_small", (1,), None, (4,))],
)
def test_earlier_maps_have_their_own_stride(name, indices, stride, cells):
    model = trained(name, out_indices=indices, output_stride=stride)
    sizes = [features.shape[-2:] for features in model.extract(torch.randn(1, 3, 65, 97))]
    assert sizes == [(ceil(65, cell), ceil(97, cell)) for cell in cells]


@pytest.mark.parametrize(
    ("name", "indices", "cells"),
    [
        ("resnet18", (-2, -1), (4, 8, 8)),
        ("resnet18", (1,), (4, 4)),
        ("resnet18", (0, 4), (4, 2, 8)),
        ("hrnet_w18_small", (-1,), (4, 32)),
        ("test_vit", (-1,), (16, 16)),
    ],
)
def test_the_fine_map_comes_first(name, indices, cells):
    anatomy = examine(name, out_indices=indices, fine=True)
    assert anatomy.reductions == cells
    torch.manual_seed(0)
    backbone, images = create_backbone(anatomy).eval(), torch.randn(1, 3, 64, 96)
    torch.manual_seed(0)
    alone = examine(name, out_indices=(0 if name != "resnet18" else 1,))
    with torch.no_grad():
        maps = anatomy.extract(backbone, images)
        fine = alone.extract(create_backbone(alone).eval(), images)[0]
    assert [tuple(features.shape[1:]) for features in maps] == [
        (width, ceil(64, cell), ceil(96, cell)) for width, cell in zip(anatomy.widths, cells, strict=True)
    ]
    if name == "resnet18":  # of the others timm draws the weights of layers that it drops afterwards, in another order
        assert torch.equal(maps[0], fine)


@pytest.mark.parametrize("channels", [1, 4, 13])
@pytest.mark.parametrize("name", ["resnet18", "resnet14t", "convnext_atto", "hrnet_w18_small", "test_vit"])
def test_channels_of_the_input(name, channels):
    model = trained(name, in_channels=channels)
    images = torch.randn(1, channels, 33, 47)
    with torch.no_grad():
        before = model(images).logits
        images[:, -1] += 1
        assert not torch.equal(model(images).logits, before)
    with pytest.raises(InputError, match=f"The images have 3 channels; this network takes {channels}: .* 3"):
        model(torch.randn(1, 3, 33, 47))


@pytest.mark.parametrize("name", PADDED)
def test_padding_is_zeros_on_the_right_and_below_and_no_place_of_it_is_kept(name):
    model = trained(name)
    anatomy, step = model.anatomy, model.anatomy.step
    images = torch.randn(1, 3, 3 * step, 4 * step)
    with torch.no_grad():
        whole = [anatomy.channels_first(features) for features in model.backbone(images)]
        assert all(map(torch.equal, anatomy.extract(model.backbone, images), whole))
        height, width = 2 * step + 3, 3 * step + 1
        images[..., height:, :] = 0
        images[..., width:] = 0
        padded = [anatomy.channels_first(features) for features in model.backbone(images)]
        maps = anatomy.extract(model.backbone, images[..., :height, :width])
    for found, expected, cell in zip(maps, padded, anatomy.reductions, strict=True):
        assert torch.equal(found, expected[..., : ceil(height, cell), : ceil(width, cell)])


@pytest.mark.parametrize("name", PADDED)
def test_logits_are_enlarged_to_where_their_pixels_are(name):
    """Logits that say where their place is must say where the pixel is, up to the last cell that is whole."""
    anatomy = examine(name)
    height, width = 3 * anatomy.step + 5, 5 * anatomy.step - 3
    for cell in set(anatomy.reductions):
        rows, columns = ceil(height, cell), ceil(width, cell)
        down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack((down, across))[None].float().add(0.5).mul(cell)
        found = anatomy.enlarge(places, torch.Size((height, width)), align_corners=False)[0]
        down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        inside = slice(cell // 2, -cell)
        expected = torch.stack((down, across)).float().add(0.5)
        assert found.shape == expected.shape
        assert torch.allclose(found[:, inside, inside], expected[:, inside, inside], atol=1e-3)


@pytest.mark.parametrize("align_corners", [True, False])
def test_without_padding_logits_are_stretched_over_the_image(align_corners):
    logits = torch.randn(1, 3, 9, 13)
    expected = F.interpolate(logits, (65, 97), mode="bilinear", align_corners=align_corners)
    assert torch.equal(examine("resnet18").enlarge(logits, torch.Size((65, 97)), align_corners), expected)


def test_multi_grid_sets_the_last_stage():
    backbone = create_model("fcn", "resnet50", 3, multi_grid=(4, 8, 16)).backbone
    assert [block.conv2.dilation for block in backbone.layer4] == [(4, 4), (8, 8), (16, 16)]
    assert [block.conv2.dilation[0] for block in backbone.layer3] == [1, 2, 2, 2, 2, 2]


def test_multi_grid_of_a_resnest_is_in_its_split_convolutions_and_keeps_the_size():
    model = trained("resnest14d", multi_grid=(4,))
    assert model.backbone.layer4[0].conv2.conv.dilation == (4, 4)
    assert model.extract(torch.randn(1, 3, 65, 97))[-1].shape[-2:] == (9, 13)


def test_multi_grid_leaves_a_downsampling_as_it_is():
    anatomy = examine("senet154")
    with torch.device("meta"):
        backbone = create_backbone(anatomy, multi_grid=(4, 8, 16))
        plain = create_backbone(anatomy)
    found, expected = (network.layer4[0].downsample[0] for network in (backbone, plain))
    assert found.kernel_size == (3, 3)
    assert (found.dilation, found.padding) == (expected.dilation, expected.padding)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(backbone="resnet81"), ("resnet81", "Did you mean resnet")),
        (dict(backbone="qqqqqqqq"), ("qqqqqqqq", "list_models")),
        (dict(multi_grid=(4, 8, 16)), ("multi_grid", "2 blocks")),
        (
            dict(backbone="convnext_atto", multi_grid=(4, 8)),
            ("multi_grid", "convnext_atto has no layer4", "leave it out"),
        ),
        (dict(backbone="skresnet18", multi_grid=(4, 8)), ("multi_grid", "skresnet18", "leave it out")),
        (dict(out_indices=(4, 2)), ("(4, 2)", "the finest first")),
        (dict(out_indices=(2, 2)), ("(2, 2)", "each map once")),
        (dict(out_indices=(5,)), ("model.out_indices is (5,)", "5 feature maps", "from 0 to 4")),
        (dict(out_indices=(2,), auxiliary=True), ("two feature maps", "(2,)")),
        (dict(backbone="coat_tiny"), ("coat_tiny", "224×224 pixels", "use another")),
        (dict(backbone="resnet18.imagenet"), ("resnet18.imagenet", "Invalid pretrained tag (imagenet)", "use another")),
    ],
)
def test_what_cannot_be_is_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        create_model("fcn", **dict(backbone="resnet18") | settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_single_image_is_refused_where_a_norm_would_see_one_value():
    model = trained("resnest14d").train()
    with pytest.raises(
        InputError, match=r"The batch is 1 image of 33×47 pixels.*data.batch_size 2 or more, or eval mode"
    ):
        model(torch.randn(1, 3, 33, 47))
    assert model(torch.randn(2, 3, 33, 47)).logits.requires_grad
    assert model.eval()(torch.randn(1, 3, 33, 47)).logits.shape == (1, 3, 33, 47)


def test_examining_a_backbone_draws_no_random_number():
    examine.cache_clear()
    before = torch.get_rng_state()
    examine("test_vit")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(params=["safetensors", "pth"])
def weights(request, tmp_path):
    """Saves timm's own network as timm publishes it, and gives the file and what is in it."""

    def saved(name, without="nothing"):
        torch.manual_seed(7)
        state = {key: value for key, value in timm.create_model(name).state_dict().items() if without not in key}
        path = tmp_path / f"{name}.{request.param}"
        save_file(state, path) if request.param == "safetensors" else torch.save(state, path)
        return str(path), state

    return saved


@pytest.mark.parametrize(("name", "prefix"), [("resnet18", ""), ("test_vit", "model.")])
def test_weights_of_a_local_file(weights, name, prefix):
    path, state = weights(name)
    backbone = create_backbone(examine(name), pretrained=path)
    assert len(backbone.state_dict()) > 10
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key.removeprefix(prefix)]), key


def test_weights_of_a_local_file_for_other_channels(weights):
    path, state = weights("resnet18")
    backbone = create_backbone(examine("resnet18", in_channels=1), pretrained=path)
    assert torch.allclose(backbone.conv1.weight, state["conv1.weight"].sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "without", "words"),
    [
        ("resnet18", "layer4", ("lacks 25 of the 122 tensors of timm's resnet18, such as layer4.0.conv1.weight",)),
        ("resnet18", "running", ("lacks 40 of the 122 tensors of timm's resnet18, such as bn1.running_mean",)),
        ("resnet34", "nothing", ("has 96 tensors that timm's resnet18 has not, such as layer1.2.bn1.bias",)),
        ("test_vit", "nothing", ("lacks 100 of the 122 tensors of timm's resnet18, such as conv1.weight",)),
        ("resnet26", "nothing", ("that timm's resnet18 has not, such as layer1.0.bn3.bias",)),
    ],
)
def test_a_file_of_other_weights_is_refused(weights, name, without, words):
    path, _ = weights(name, without)
    with pytest.raises(InputError) as caught:
        create_backbone(examine("resnet18"), pretrained=path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in (path, *words)), caught.value


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_of_no_weights_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="is no file"):
        create_backbone(examine("resnet18"), pretrained=str(tmp_path / name))
    for content in (b"", b"no weights" * 20):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"holds no weights of timm's resnet18 .*give a file that fits") as caught:
            create_backbone(examine("resnet18"), pretrained=str(tmp_path / name))
        assert "\n" not in str(caught.value)


OFFLINE = (
    "The published weights of resnet18 cannot be had",
    "go on without them by --model.pretrained false, or with a local file of them: --model.pretrained FILE.",
)


def test_offline_the_error_says_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        create_model("fcn", "resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in OFFLINE)


def test_a_hub_that_does_not_answer_is_given_up_soon(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed again, so nobody answers there
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    arguments = ["train", "--name", str(tmp_path / "run"), "--model.backbone", "resnet18", "--model.pretrained", "true"]
    found = subprocess.run(
        [sys.executable, "-m", "danet", *arguments], env=os.environ | hub, capture_output=True, text=True, timeout=40
    )
    assert found.returncode == 2
    assert all(word in " ".join(found.stderr.split()) for word in OFFLINE)
    assert "Traceback" not in found.stderr
