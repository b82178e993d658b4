"""What `create_model` and its networks refuse."""

import pytest
import torch

from danet.errors import InputError
from danet.models.segmentation import create_model


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(head="upernet"), ("upernet", "'fcn', 'pam', 'cam', 'danet'")),
        (dict(multigrid=(4, 8, 16)), ("multigrid", "Did you mean multi_grid")),
    ],
)
def test_wrong_settings_are_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        create_model(**dict(backbone="resnet18") | settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_image_that_is_no_batch_is_refused():
    with pytest.raises(InputError, match="The input is 3×64×64; a batch is images × channels × height × width"):
        create_model(backbone="test_resnet")(torch.randn(3, 64, 64))


def test_too_small_an_input_is_refused():
    with pytest.raises(InputError, match="31×64 pixels"):
        create_model(backbone="test_resnet")(torch.randn(1, 3, 31, 64))
