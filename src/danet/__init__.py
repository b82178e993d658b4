"""danet: scene segmentation by dual attention (Fu et al., CVPR 2019).

The names below are loaded on first use, so that `import danet` and `danet --help` need no torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danet import ops as ops
    from danet import weights as weights
    from danet.config import read_config as read_config
    from danet.errors import InputError as InputError
    from danet.evaluation.evaluate import evaluate as evaluate
    from danet.inference.segmenter import Segmenter as Segmenter
    from danet.inference.segmenter import load as load
    from danet.models.attention import ChannelAttention as ChannelAttention
    from danet.models.attention import PositionAttention as PositionAttention
    from danet.models.segmentation import create_model as create_model
    from danet.training.loop import train as train

__version__ = version("danet")

_HOME = {
    "ChannelAttention": "danet.models.attention",
    "InputError": "danet.errors",
    "PositionAttention": "danet.models.attention",
    "Segmenter": "danet.inference.segmenter",
    "create_model": "danet.models.segmentation",
    "evaluate": "danet.evaluation.evaluate",
    "load": "danet.inference.segmenter",
    "read_config": "danet.config",
    "train": "danet.training.loop",
}
__all__ = [
    "ChannelAttention",
    "InputError",
    "PositionAttention",
    "Segmenter",
    "__version__",
    "create_model",
    "evaluate",
    "load",
    "ops",
    "read_config",
    "train",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in ("ops", "weights"):
        return import_module(f"danet.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'danet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
