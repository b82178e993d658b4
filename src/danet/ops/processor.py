"""What kind of processor this is, where torch says so; older versions do not."""

import torch

_TOLD = dict(getattr(torch.cpu, "get_capabilities", dict)())
INTEL = "Intel" in str(_TOLD.get("cpu_name"))
"""There MKL, to which torch gives float32 products, takes all of the vector units, and oneDNN is no faster."""
AMX = bool(_TOLD.get("amx_tile"))
"""It multiplies matrices of lower precision whole."""
