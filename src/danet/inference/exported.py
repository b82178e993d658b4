"""An exported model as a network: file values to logits by ONNX Runtime, on the CPU, in the precision of the file."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from danet.errors import InputError
from danet.models.segmentation import SegmentationOutput
from danet.weights.exported import MODEL, Exported


class ExportedModel(nn.Module):
    """Images (B×C×H×W, file values, each side at least 32) to a SegmentationOutput without branches.

    Raises InputError where onnxruntime is missing, and for a graph of other inputs or outputs than `told` says.
    """

    def __init__(self, folder: Path, told: Exported) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise InputError(
                f"{folder} is an exported model, which needs one package more: pip install onnxruntime"
            ) from None
        self.folder, self.align_corners = folder, told.size.align_corners
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what it says of errors is raised as well
        path = folder / MODEL
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no type in common
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"ONNX Runtime cannot read {path}: {reason}; export it again.") from None
        ends = [(one.name, one.type, one.shape) for one in (*self.session.get_inputs(), *self.session.get_outputs())]
        widths = {"images": len(told.channels.names), "logits": len(told.names)}
        fixed = [
            (name, kind, [size if isinstance(size, int) else None for size in shape]) for name, kind, shape in ends
        ]
        if fixed != [(name, "tensor(float)", [None, width, None, None]) for name, width in widths.items()]:
            raise InputError(
                f"{path} has {', '.join(f'{name} {shape}' for name, _, shape in ends)}; it must have float32 images of "
                f"{widths['images']} channels, of any number and size, and logits of {widths['logits']} classes: give "
                "a folder of danet export --to onnx."
            )
        digest = bytes.fromhex("".join(told.files.values()))
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))  # tells its weights from others

    def forward(self, images: Float[Tensor, "b c H W"]) -> SegmentationOutput:
        inputs = {"images": images.float().contiguous().numpy()}
        try:
            (logits,) = self.session.run(["logits"], inputs)
        except Exception as error:  # as torch has it, for those who look for a lack of memory
            raise RuntimeError(" ".join(str(error).split())) from None
        return SegmentationOutput(torch.from_numpy(logits), {}, None)
