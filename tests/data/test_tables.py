"""Tables with columns of encoded images, as Parquet files and as `datasets` saves them."""

import io
import pickle
import socket
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from danet.config import Preprocess
from danet.data.dataset import Dataset
from danet.data.sources import open_source
from danet.errors import InputError

LABELS = "names: [road, car, tree]\n"
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
MASK = (np.arange(40 * 48, dtype=np.uint8).reshape(40, 48) // 7) % 3


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Caches of this test alone, and no way out."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a table on disk needs no network"))


def encoded(values: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    return file.getvalue()


def save_parquet(path: Path, rows: int = 3, **columns: list) -> Path:
    """A Parquet file of structs {bytes, path}, as the Hub's are; `columns` replace or add some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": encoded(np.roll(PICTURE, row, axis=1)), "path": f"{row}.png"} for row in range(rows)]
    masks = [{"bytes": encoded(np.roll(MASK, row, axis=1)), "path": f"{row}.png"} for row in range(rows)]
    table = pyarrow.table({"id": list(range(rows)), "image": pictures, "mask": masks, **columns})
    pyarrow.parquet.write_table(table, path)
    return path


def save_table(root: Path) -> Path:
    for name, rows in (("train-00001-of-00002", 1), ("train-00000-of-00002", 3), ("validation-00000-of-00001", 2)):
        save_parquet(root / "data" / f"{name}.parquet", rows)
    (root / "labels.yaml").write_text(LABELS)
    return root


def test_a_folder_of_parquet_files(tmp_path):
    root = save_table(tmp_path / "table")
    items, labels = open_source("table", "train", root=str(root))
    assert [item.name for item in items] == [f"{root} train row {row}" for row in range(4)]
    assert labels.names == ("road", "car", "tree")
    dataset = Dataset(items, labels)
    assert np.array_equal(dataset[1].pixels, np.roll(PICTURE, 1, axis=1))
    assert np.array_equal(dataset[1].mask.numpy(), np.roll(MASK, 1, axis=1))
    assert np.array_equal(dataset[3].pixels, PICTURE)
    image, mask = pickle.loads(pickle.dumps(items[2])).load()
    assert np.array_equal(image, dataset[2].pixels)
    assert np.array_equal(mask, dataset[2].mask)
    assert len(open_source("table", "val", root=root)[0]) == 2
    with pytest.raises(InputError, match=r"table has no split test, but train, validation; name its files test-"):
        open_source("table", "test", root=root)


def test_one_parquet_file_with_columns_of_plain_bytes(tmp_path):
    deep = {"seg": [encoded(MASK.astype(np.uint16) + 300)] * 2, "photo": [encoded(PICTURE, "JPEG")] * 2}
    path = save_parquet(tmp_path / "all.parquet", 2, **deep)
    (tmp_path / "own.yaml").write_text("names: [road, car, tree]\nids: {300: 0, 301: 1, 302: 2}\n")
    columns, labels = ("photo", "seg"), str(tmp_path / "own.yaml")
    source = open_source("table", "train", root=path, columns=columns, labels=labels)
    assert np.array_equal(Dataset(*source)[0].mask.numpy(), MASK)
    assert Dataset(*source)[1].image.shape == (3, 40, 48)
    grey = open_source(
        "table", "train", root=path, columns=columns, labels=labels, preprocess=Preprocess(names=("grey",))
    )
    assert Dataset(*grey)[0].image.shape == (1, 40, 48)
    with pytest.raises(InputError, match=r"all\.parquet has no split val, but train"):
        open_source("table", "val", root=path, columns=columns, labels=labels)
    with pytest.raises(InputError, match=r"no column 'foto'\. Did you mean photo\? Set data\.columns"):
        open_source("table", "train", root=path, columns=("foto", "seg"), labels=labels)
    with pytest.raises(InputError, match=r"column id is Value.*it must hold encoded images"):
        open_source("table", "train", root=path, columns=("photo", "id"), labels=labels)


def test_what_datasets_saved(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    rows = {"image": [Image.fromarray(PICTURE)] * 2, "mask": [Image.fromarray(MASK)] * 2}
    whole = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict({"train": whole, "val": whole.select([0])}).save_to_disk(tmp_path / "both")
    whole.save_to_disk(tmp_path / "one")
    (tmp_path / "labels.yaml").write_text(LABELS)  # beside the folders, which are datasets' own
    for name, split, count in (("both", "train", 2), ("both", "val", 1), ("one", "train", 2)):
        source = open_source("table", split, root=tmp_path / name)
        assert len(source[0]) == count
        sample = Dataset(*source)[count - 1]
        assert np.array_equal(sample.pixels, PICTURE)
        assert np.array_equal(sample.mask.numpy(), MASK)


def test_faults_name_row_and_column(tmp_path):
    good, small = encoded(MASK), encoded(MASK[:32])
    masks = [good[: len(good) // 2], encoded(PICTURE), small, None, encoded(MASK + 200)]
    root = save_parquet(tmp_path / "t" / "train.parquet", len(masks), mask=masks).parent
    (root / "labels.yaml").write_text(LABELS)
    dataset = Dataset(*open_source("table", "train", root=root))
    for row, told in enumerate(
        (
            "train row 0, column mask cannot be read",
            "train row 1, column mask is RGB; a mask is one channel",
            "train row 2, column mask is 48×32 pixels, its image .*train row 2, column image 48×40",
            "train row 3, column mask is empty; leave the row out",
            r"train row 4, column mask holds the value 200 at pixel \(0, 0\)",
        )
    ):
        with pytest.raises(InputError, match=told) as error:
            dataset[row]
        assert "\n" not in str(error.value)


def test_tables_need_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"is a table, which needs datasets: pip install 'danet\[tables\]'"):
        open_source("table", "train", root=tmp_path, labels="voc")


def test_no_table_and_no_labels(tmp_path):
    with pytest.raises(InputError, match=r"t has no labels\.yaml; write one, .* or give data\.labels"):
        open_source("table", "train", root=tmp_path / "t")
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=r"cannot be opened as a table: .*Give a folder of Parquet files") as error:
            open_source("table", "train", root=root, labels="voc")
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"no split 'tarin'\. Did you mean train"):
        open_source("table", "tarin", root=tmp_path, labels="voc")
