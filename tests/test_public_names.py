"""What `import danet` offers, and that it costs nothing until it is used."""

import subprocess
import sys

import pytest

import danet


@pytest.mark.parametrize("name", danet.__all__)
def test_every_public_name_is_there(name):
    assert getattr(danet, name) is not None
    assert name in dir(danet)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'segmenter'"):
        _ = danet.segmenter


def test_importing_danet_loads_no_torch():
    code = "import sys, danet; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
