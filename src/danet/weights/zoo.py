"""Models by name: a run's folder, a bundle's, or one that comes with the package."""

from importlib import resources
from pathlib import Path

from danet.errors import InputError

DEFAULT = "street-tiny"
"""A toy trained on drawn streets alone, which shows what attention does where nobody has named a model."""


def find_bundle(name: str | Path | None = None) -> Path:
    """The folder of the bundle that `name` stands for; a folder comes before a model of that name. None: street-tiny.

    Raises InputError for a run that has no model yet, and for what is neither.
    """
    if name is None:
        return _embedded_folder(DEFAULT)
    path = Path(name)
    if (path / "best").is_dir():
        return path / "best"
    if (path / "config.yaml").is_file():
        raise InputError(f"The run {path} has validated no model yet; go on with: danet train --resume {path}")
    if path.is_dir():
        return path
    if str(name) in embedded():
        return _embedded_folder(str(name))
    raise InputError(
        f"{path} is no folder, and no model that comes with the package ({', '.join(embedded())}); "
        "give a run's folder or a bundle's."
    )


def embedded() -> list[str]:
    """The names of the models that come with the package."""
    folders = (entry for entry in resources.files("danet.weights").iterdir() if entry.is_dir())
    return sorted(entry.name for entry in folders if (entry / "model.safetensors").is_file())


def _embedded_folder(name: str) -> Path:
    return Path(str(resources.files("danet.weights") / name))
