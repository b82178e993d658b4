import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from danet.data.dataset import Sample
from danet.data.transforms import collate, normalise, training_transform

MEAN = (0.5, 0.25, 0.75)
FILL = torch.tensor([128, 64, 191], dtype=torch.uint8)


def plain(height: int, width: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A mask of pixel numbers modulo 200, and an image that shows it in every channel."""
    mask = (torch.arange(height * width) % 200).to(torch.uint8).view(height, width)
    return tv_tensors.Image(mask.repeat(3, 1, 1)), tv_tensors.Mask(mask)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(32, 90), st.integers(32, 90)),
    crop=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    low=st.floats(0.2, 2.0),
    seed=st.integers(0, 999),
)
def test_any_size_becomes_the_crop_and_padding_is_ignored(size, crop, low, seed):
    torch.manual_seed(seed)
    image, mask = training_transform(crop, (low, 2.0), mean=MEAN)(*plain(*size))
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(mask, tv_tensors.Mask)
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((3, *crop), torch.uint8, crop, torch.uint8)
    assert set(mask.unique().tolist()) <= {*range(200), 255}
    assert (image[:, mask == 255] == FILL[:, None]).all()
    assert (mask != 255).any()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_without_scaling_image_and_mask_stay_one(flip):
    torch.manual_seed(0)
    image, mask = plain(40, 50)
    places = set()
    for _ in range(60):
        cut, labels = training_transform((38, 47), flip=flip)(image, mask)
        assert torch.equal(cut[0], labels)
        shown = labels.flip(-1) if flip else labels
        places |= {(y, x) for y in range(3) for x in range(4) if torch.equal(mask[y : y + 38, x : x + 47], shown)}
    assert len(places) == 12


def test_a_larger_window_shows_the_whole_image_anywhere():
    torch.manual_seed(0)
    image, mask = plain(40, 50)
    corners = set()
    for _ in range(60):
        cut, labels = training_transform((42, 53), flip=0.0, mean=MEAN)(image, mask)
        y, x = (int(place[0]) for place in (labels != 255).nonzero(as_tuple=True))
        assert torch.equal(labels[y : y + 40, x : x + 50], mask)
        assert torch.equal(cut[:, y : y + 40, x : x + 50], image)
        assert int((labels == 255).sum()) == 42 * 53 - 40 * 50
        corners.add((y, x))
    assert corners == {(y, x) for y in range(3) for x in range(4)}


@pytest.mark.parametrize("scale", [0.6, 1.6])
def test_scaling_moves_the_mask_no_further_than_the_image(scale):
    torch.manual_seed(0)
    ramp = torch.arange(200, dtype=torch.uint8).repeat(100, 1)
    pair = tv_tensors.Image(ramp.repeat(3, 1, 1)), tv_tensors.Mask(ramp)
    image, mask = training_transform((50, 100), (scale, scale), flip=0.0)(*pair)
    difference = image[0].float() - mask.float()
    assert difference.abs().max() <= 1
    assert abs(float(difference.mean())) < 0.1  # a nearest that floors gives 0.3
    assert float(mask[0, -1]) - float(mask[0, 0]) == pytest.approx(99 / scale, abs=1.5)


def test_scales_cover_their_bounds():
    torch.manual_seed(0)
    shown = [
        float((training_transform((90, 90), (0.5, 2.0))(*plain(40, 40))[1] != 255).sum()) ** 0.5 for _ in range(200)
    ]
    assert min(shown) == pytest.approx(20, abs=1)
    assert max(shown) == pytest.approx(80, abs=1)
    assert sum(shown) / 200 == pytest.approx(50, abs=4)


def test_light_changes_the_image_alone():
    image, mask = plain(40, 50)
    torch.manual_seed(0)
    varied, labels = training_transform((40, 50), flip=0.0, photometric=0.4)(image, mask)
    assert torch.equal(labels, mask)
    assert not torch.equal(varied, image)
    grey = tv_tensors.Image(torch.full((3, 40, 50), 128, dtype=torch.uint8))
    means = [
        float(training_transform((40, 50), photometric=0.4)(grey, mask)[0].float().mean()) / 128 for _ in range(40)
    ]
    assert 0.55 < min(means) < 0.8
    assert 1.2 < max(means) < 1.45


def test_collate_and_normalise():
    samples = [Sample(*plain(33, 40), str(index)) for index in range(3)]
    images, masks, names = collate(samples)
    assert (images.shape, images.dtype, names) == ((3, 3, 33, 40), torch.uint8, ["0", "1", "2"])
    assert (masks.shape, masks.dtype) == ((3, 33, 40), torch.int64)
    assert type(images) is type(masks) is torch.Tensor
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    values = normalise(images, mean, std)
    expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(values, expected)
    assert values.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, collate(samples)[0])


@pytest.mark.parametrize(("dtype", "span"), [(torch.uint8, (0, 255)), (torch.float32, (1000, 9000))])
def test_light_changes_the_rgb_channels_alone(dtype, span):
    image = torch.rand(5, 40, 50, generator=torch.Generator().manual_seed(1))
    image = (span[0] + (span[1] - span[0]) * image).to(dtype)
    mask = plain(40, 50)[1]
    torch.manual_seed(0)
    change = training_transform((40, 50), flip=0.0, photometric=0.4, mean=[0.5] * 5, span=span, rgb=(3, 1, 0))
    varied, labels = change(tv_tensors.Image(image), mask)
    assert (varied.dtype, varied.shape) == (dtype, (5, 40, 50))
    assert torch.equal(labels, mask)
    assert torch.equal(varied[[2, 4]], image[[2, 4]])
    assert all(not torch.equal(varied[channel], image[channel]) for channel in (0, 1, 3))
    assert 0.5 < float(varied[[3, 1, 0]].float().mean() / image[[3, 1, 0]].float().mean()) < 1.5
    torch.manual_seed(0)  # the same light as on these three as an image of their own, 8 bits or 0 … 1
    low, one = (0, 1) if dtype == torch.uint8 else (1000, 8000)
    picture = ((image[[3, 1, 0]] - low) / one).to(dtype)
    own = (0, 255) if dtype == torch.uint8 else (0, 1)
    alone = training_transform((40, 50), flip=0.0, photometric=0.4, span=own)(tv_tensors.Image(picture), mask)[0]
    assert torch.allclose((varied[[3, 1, 0]] - low) / one, alone.float(), atol=1e-5)
    torch.manual_seed(0)
    without, _ = training_transform((40, 50), flip=0.0, photometric=0.4, mean=[0.5] * 5, span=span, rgb=())(
        tv_tensors.Image(image), mask
    )
    assert torch.equal(without, image)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_light_is_the_same_in_whatever_order_the_channels_are(dtype):
    image = (255 * torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(1))).to(dtype)
    varied = []
    for order in ([0, 1, 2], [2, 1, 0]):
        torch.manual_seed(0)
        change = training_transform((40, 50), flip=0.0, photometric=0.4, rgb=order)
        varied.append(change(tv_tensors.Image(image[order]), plain(40, 50)[1])[0][order])
    torch.testing.assert_close(varied[0], varied[1])
    assert 0.5 < float(varied[0].float().mean() / image.float().mean()) < 1.5


def test_light_on_pictures_is_torchvisions():
    image, mask = tv_tensors.Image(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)), plain(40, 50)[1]
    torch.manual_seed(0)
    found = training_transform((40, 50), flip=0.0, photometric=0.4)(image, mask)[0]
    torch.manual_seed(0)
    crop = training_transform((40, 50), flip=0.0)
    expected = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)(*crop(image, mask))[0]
    assert torch.equal(found, expected)


def test_padding_has_the_mean_in_file_values():
    image = tv_tensors.Image(torch.full((2, 40, 50), 7.0))
    padded, mask = training_transform((60, 70), flip=0.0, mean=(0.375, 0.5), span=(-1, 3))(image, plain(40, 50)[1])
    assert (padded[:, mask == 255] == torch.tensor([[0.5], [1.0]])).all()
    assert (padded[:, mask != 255] == 7).all()


def test_normalise_by_a_stated_range():
    values = torch.tensor([0.0, 2500.0, 10000.0, 12000.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2).contiguous()
    kept = values.clone()
    found = normalise(values, (0.5, 0.0, 0.25), (1.0, 1.0, 0.5), (0, 10000))
    assert torch.allclose(found[0, 0].ravel(), torch.tensor([-0.5, -0.25, 0.5, 0.7]))
    assert torch.allclose(found[0, 1].ravel(), torch.tensor([0.0, 0.25, 1.0, 1.2]))
    assert torch.allclose(found[0, 2].ravel(), torch.tensor([-0.5, 0.0, 1.5, 1.9]))
    assert torch.equal(values, kept)
    assert torch.equal(
        normalise(values.byte(), (0.5,) * 3, (1.0,) * 3), normalise(values.byte().float(), (0.5,) * 3, (1.0,) * 3)
    )
