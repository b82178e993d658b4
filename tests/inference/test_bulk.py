"""Many images on Ray Data: each exactly once in the output, whatever dies."""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from danet.errors import InputError
from danet.inference import bulk
from danet.inference.bulk import Predictor, predict_bulk, schema
from danet.inference.bulk_sources import Source, find_sources, read_source
from danet.inference.protocol import PROTOCOLS, Protocol
from danet.inference.segmenter import load
from danet.weights.bundle import load_bundle, save_bundle
from danet.weights.zoo import find_bundle

WHOLE = Protocol()
SUFFIXES = (".png", ".jpg")


def encoded(number, size=(64, 48)):
    blocks = np.random.Generator(np.random.Philox(number)).integers(0, 256, (6, 8, 3), np.uint8)
    content = BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()


def as_table(path, cells, per_group=10):
    pq.write_table(pa.table({"number": range(len(cells)), "image": cells}), path, row_group_size=per_group)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two images, one in a folder of its own, and what is to be left out."""
    root = tmp_path / "in"
    (root / "deep" / ".hidden").mkdir(parents=True)
    for number, name in enumerate(("a.png", "deep/b.PNG", ".c.png", "deep/.hidden/d.png")):
        (root / name).write_bytes(encoded(number))
    (root / "notes.txt").write_text("no image")
    return root


def test_sources_are_the_images_of_files_folders_addresses_and_tables(folder, tmp_path):
    out = folder / "out"
    out.mkdir()
    (out / "a.png").write_bytes(encoded(9))
    inside = [Source(f"{folder}/a.png", "a"), Source(f"{folder}/deep/b.PNG", "deep/b")]
    assert find_sources([str(folder)], SUFFIXES, out) == inside
    assert find_sources([f"{folder}/"], SUFFIXES, out) == inside
    assert find_sources([folder.as_uri()], SUFFIXES, out) == [
        Source(f"{folder.as_uri()}/a.png", "a"),
        Source(f"{folder.as_uri()}/deep/b.PNG", "deep/b"),
    ]
    table = as_table(tmp_path / "t.parquet", [encoded(n) for n in range(5)], per_group=3)
    several = find_sources([str(folder), str(table), f"{folder}/a.png"], SUFFIXES, out)
    assert several == [
        Source(f"{folder}/a.png", "a"),  # once, under the name that it was given last
        Source(f"{folder}/deep/b.PNG", "in/deep/b"),
        Source(str(table), "t", 0, 0, (0, 1, 2)),
        Source(str(table), "t", 1, 3, (3, 4)),
    ]
    assert several[3].images == [(f"{table}#3", "t/00000003"), (f"{table}#4", "t/00000004")]


def test_an_output_at_or_above_the_input_hides_no_image(folder, tmp_path):
    inside = [Source(f"{folder}/a.png", "a"), Source(f"{folder}/deep/b.PNG", "deep/b")]
    as_table(folder / "part-000001.parquet", [encoded(5)])
    own = Source(f"{folder}/part-000001.parquet", "part-000001", 0, 0, (0,))
    for output in (tmp_path, folder):
        assert find_sources([str(folder)], SUFFIXES, output) == [*inside, own]
    (folder / "bulk.json").write_text("{}")  # it is the output of a run before
    assert find_sources([str(folder)], SUFFIXES, folder) == inside
    assert find_sources([str(folder)], SUFFIXES, tmp_path) == [*inside, own]


def test_whatever_objects_under_an_address_are_called_they_are_read(tmp_path):
    names = ("a b.png", "d#1.png", "e%20f.png", "what?.png", "é.png")
    (tmp_path / "in" / "sub 1").mkdir(parents=True)
    for number, name in enumerate(names):
        (tmp_path / "in" / "sub 1" / name).write_bytes(encoded(number))
    (tmp_path / "in" / "e f.png").write_bytes(encoded(9))
    table = as_table(tmp_path / "in" / "t.parquet", [encoded(7)])
    for query in ("", "?use_mmap=false"):
        address = f"{(tmp_path / 'in').as_uri()}{query}"
        found = {source.name: source for source in find_sources([address], SUFFIXES, tmp_path / "out")}
        assert found.keys() == {"e f", "t", *(f"sub 1/{name.removesuffix('.png')}" for name in names)}
        assert all(source.path.endswith(query) for source in found.values())
        for number, name in enumerate(names):
            (row,) = read_source(found[f"sub 1/{name.removesuffix('.png')}"])
            assert (row["bytes"], row["error"]) == (encoded(number), "")
        assert [row["bytes"] for row in read_source(found["t"])] == [encoded(7)]
        assert find_sources([f"{table.as_uri()}{query}"], SUFFIXES, tmp_path / "out")[0].rows == (0,)
    (row,) = read_source(Source("file:///a b.png", "a b"))  # no address, as it stands
    assert "file:///a b.png is no address that can be read" in row["error"]


def test_inputs_that_are_no_images_are_one_line(folder, tmp_path):
    as_table(tmp_path / "words.parquet", ["a", "b"])
    pq.write_table(pa.table({"picture": [b"a"]}), tmp_path / "other.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()
    for given, told in {
        "missing.png": "does not exist",
        "empty": r"holds no image \(\.png",
        "words.parquet": "must hold encoded images",
        "other.parquet": "no column 'image'",
        "damaged.parquet": "cannot be read as Parquet",
    }.items():
        with pytest.raises(InputError, match=told) as caught:
            find_sources([str(tmp_path / given)], SUFFIXES, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert given in str(caught.value)
    with pytest.raises(InputError, match="no address"):
        find_sources(["ftp://somewhere/a.png"], SUFFIXES, tmp_path / "out")


def test_readers_give_bytes_or_say_what_is_wrong(folder, tmp_path):
    contents = [encoded(number) for number in range(4)]
    assert list(read_source(Source(f"{folder}/a.png", "a"))) == [
        {"path": f"{folder}/a.png", "name": "a", "bytes": contents[0], "error": ""}
    ]
    (gone,) = read_source(Source(f"{folder}/gone.png", "gone"))
    assert gone["bytes"] == b""
    assert f"{folder}/gone.png cannot be read" in gone["error"]
    cells = [
        {"bytes": contents[2], "path": "x.png"},
        {"bytes": None, "path": f"{folder}/a.png"},
        {"bytes": None, "path": f"{folder}/gone.png"},
        {"bytes": None, "path": None},
        {"bytes": b"", "path": ""},
        None,
    ]
    table = as_table(tmp_path / "t.parquet", cells, per_group=4)
    first, second = find_sources([str(table)], SUFFIXES, tmp_path / "out")
    rows = [*read_source(first), *read_source(second)]
    assert [row["path"] for row in rows] == [f"{table}#{row}" for row in range(6)]
    assert [row["bytes"] for row in rows] == [contents[2], contents[0], b"", b"", b"", b""]
    assert [row["error"] for row in rows[:2]] == ["", ""]
    assert f"{table}#2 cannot be read: " in rows[2]["error"]
    assert [row["error"] for row in rows[3:]] == [f"{table}#{row} is empty." for row in (3, 4, 5)]
    table.write_bytes(table.read_bytes()[:200])  # damaged after it was listed
    assert all("cannot be read" in row["error"] for row in read_source(first))


def test_an_actors_rows_are_the_segmenters(folder):
    flipped = PROTOCOLS["whole"][0].model_copy(update={"flip": True})
    actor, segmenter = Predictor(None, "cpu", "float32", flipped), load(device="cpu", precision="float32")
    rows = [
        {"path": "a", "name": "a", "bytes": encoded(0), "error": ""},
        {"path": "b", "name": "b", "bytes": b"nonsense", "error": ""},
        {"path": "c", "name": "c", "bytes": b"", "error": "c is empty."},
        {"path": "d", "name": "d", "bytes": encoded(4, (20, 20)), "error": ""},
    ]
    answer = actor(pa.Table.from_pylist(rows))
    assert answer.schema == schema(segmenter.labels)
    good, *bad = answer.to_pylist()
    prediction = segmenter.predict(encoded(0), flipped)
    assert np.array_equal(np.array(Image.open(BytesIO(good["label"]))), prediction.labels)
    assert good["shares"] == pytest.approx(prediction.shares)
    assert good["confidence"] == pytest.approx(float(prediction.confidence.mean()))
    assert (good["width"], good["height"], good["error"]) == (64, 48, None)
    assert [row["error"][:3] for row in bad] == ["b: ", "c i", "d: "]
    assert all(row["label"] is row["shares"] is row["width"] is None for row in bad)


def test_an_image_that_lacks_memory_is_a_row(monkeypatch):
    actor = Predictor(None, "cpu", "float32", WHOLE)
    row = {"path": "a", "name": "a", "bytes": encoded(0), "error": ""}
    with monkeypatch.context() as patch:
        patch.setattr(actor.segmenter, "logits", lambda images: torch.empty(2**60))  # more than any machine has
        told = actor.row(row)["error"]
    assert told.startswith("a: The image needs more memory than there is; predict it in windows")
    assert "error" not in actor.row(row)


def test_two_images_of_one_name_are_refused_as_png_alone(folder, tmp_path):
    (folder / "a.jpg").write_bytes(encoded(5))
    with pytest.raises(InputError, match=r"a\.png of .*a\.png would replace that of another"):
        predict_bulk(None, [str(folder)], tmp_path / "out", write="png", protocol=WHOLE)
    assert not (tmp_path / "out").exists()


def test_an_image_is_never_replaced_by_its_labels(folder):
    before = (folder / "a.png").read_bytes()
    with pytest.raises(InputError, match="would replace it"):
        predict_bulk(None, [str(folder / "a.png")], folder, write="png", protocol=WHOLE)
    assert (folder / "a.png").read_bytes() == before


def test_an_output_of_other_settings_or_another_process_is_refused(folder, tmp_path):
    for place in (folder / "a.png", folder / "a.png" / "deeper"):
        with pytest.raises(InputError, match="cannot be written"):
            predict_bulk(None, [str(folder)], place, write="parquet", protocol=WHOLE)
    out = tmp_path / "out"
    out.mkdir()
    (out / "bulk.json").write_text("{}")
    for words in ("{}", "[]", "half {"):
        (out / "bulk.json").write_text(words)
        with pytest.raises(InputError, match="another model, protocol or form"):
            predict_bulk(None, [str(folder)], out, write="parquet", protocol=WHOLE)
    (out / "bulk.json").unlink()
    as_table(out / "part-00000-of-another.parquet", [encoded(1)])
    with pytest.raises(InputError, match=r"holds part-00000-of-another\.parquet and no bulk\.json"):
        predict_bulk(None, [str(folder)], out, write="parquet", protocol=WHOLE)


def begun(model, folder, out, write):
    """A run that ends before Ray is started; and, as if it had not, a part of all images."""

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_bulk(model, [str(folder)], out, write=write, protocol=WHOLE, progress=stop)
    paths = [source.path for source in find_sources([str(folder)], SUFFIXES, out)]
    pq.write_table(pa.table({"path": paths}), out / "part-000001.parquet")
    return len(paths)


def test_what_a_killed_run_left_is_removed_where_label_maps_are_and_nowhere_else(folder, tmp_path):
    out, left = tmp_path / "out", (".part-000002.parquet.7.part", "deep/.b.png.7.part")
    (out / "deep").mkdir(parents=True)
    (out / "theirs").mkdir()
    for write, stays in (("png", []), ("parquet", ["deep/.b.png.7.part"])):
        begun(None, folder, out, write)
        for name in (*left, "theirs/.c.part"):
            (out / name).write_bytes(b"half")
        assert predict_bulk(None, [str(folder)], out, write=write, protocol=WHOLE).kept == 2
        there = sorted(path.relative_to(out).as_posix() for path in out.rglob(".*.part"))
        assert there == [*stays, "theirs/.c.part"]
        for name in ("bulk.json", "part-000001.parquet"):
            (out / name).unlink()


def test_another_model_is_one_that_differs_whatever_it_is_called(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle, weights = load_bundle(find_bundle(None)), Path("runs/a/model.safetensors")
    save_bundle("runs/a", bundle)
    before = weights.read_bytes()
    count = begun("runs/a", folder, tmp_path / "out", "parquet")
    for name in ("./runs/a", str(tmp_path / "runs" / "a")):
        result = predict_bulk(name, [str(folder)], tmp_path / "out", write="parquet", protocol=WHOLE)
        assert result == bulk.BulkResult(0, 0, {}, count)
    assert json.loads((tmp_path / "out" / "bulk.json").read_text())["model"] == "runs/a"
    other = bundle.preprocess.model_copy(update={"longest": 64})
    save_bundle("runs/a", dataclasses.replace(bundle, preprocess=other))
    assert weights.read_bytes() == before
    with pytest.raises(InputError, match="another model, protocol or form"):
        predict_bulk("runs/a", [str(folder)], tmp_path / "out", write="parquet", protocol=WHOLE)


def test_a_missing_ray_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'danet\[bulk\]'"):
        predict_bulk(None, [str(folder)], tmp_path / "out", write="parquet", protocol=WHOLE)


def actor_processes():
    """The processes of Ray's that hold our model, among the descendants of this one."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue

    def ours(pid):
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid, name in names.items() if name.startswith("ray::") and "Predictor" in name and ours(pid)]


@pytest.fixture
def many(tmp_path):
    """32 images in files and 32 in a table, an unreadable one in each; all paths with their numbers, -1 for these."""
    images = tmp_path / "in"
    images.mkdir()
    for number in range(32):
        (images / f"{number:02}.png").write_bytes(encoded(number, (256, 192)))
    (images / "bad.png").write_bytes(b"nonsense")
    cells = [{"bytes": encoded(number, (256, 192)), "path": f"{number}.png"} for number in range(32, 64)]
    table = as_table(tmp_path / "t.parquet", [*cells, {"bytes": b"", "path": None}], per_group=5)
    paths = {str(images / f"{number:02}.png"): number for number in range(32)}
    paths |= {f"{table}#{row}": 32 + row for row in range(32)}
    return [str(images), str(table)], paths | {str(images / "bad.png"): -1, f"{table}#32": -1}


def check(out, paths):
    """Every path is in the parts once, with the labels that the Segmenter alone gives; returns the rows."""
    rows = [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert sorted(row["path"] for row in rows) == sorted(paths)
    segmenter = load(device="cpu", precision="float32")
    for row in rows:
        if paths[row["path"]] < 0:
            assert row["error"].startswith(row["path"])
            continue
        prediction = segmenter.predict(encoded(paths[row["path"]], (256, 192)))
        with Image.open(out / row["file"] if "file" in row else BytesIO(row["label"])) as mask:
            assert np.array_equal(np.array(mask), prediction.labels)
        assert row["shares"] == pytest.approx(prediction.shares, abs=1e-6)
        assert row["error"] is None
    assert json.loads((out / "bulk.json").read_text())["classes"] == list(segmenter.labels.names)
    return rows


@pytest.mark.slow
def test_every_image_is_there_once_though_a_worker_is_killed_midway(many, tmp_path, monkeypatch, capfd):
    (inputs, paths), out, killed, told = many, tmp_path / "out", [], []
    monkeypatch.setattr(bulk, "_BATCH", 4)

    def progress(done, total):
        told.append((done, total))
        if done > 0 and not killed:
            assert done < total / 2
            killed.extend(actor_processes()[:1])
            os.kill(killed[0], signal.SIGKILL)

    result = predict_bulk(
        None,
        inputs,
        out,
        write="parquet",
        protocol=WHOLE,
        device="cpu",
        precision="float32",
        actors=2,
        progress=progress,
    )
    assert len(killed) == 1
    assert (result.done, result.failed, result.kept) == (64, 2, 0)
    assert set(result.failures) == {path for path, number in paths.items() if number < 0}
    assert (told[0], told[-1]) == ((0, 66), (66, 66))
    assert not ray.is_initialized()
    assert capfd.readouterr() == ("", "")
    check(out, paths)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_what_is_not_there(many, tmp_path):
    (inputs, paths), out = many, tmp_path / "out"
    code = f"""
from pathlib import Path
from danet.inference import bulk
from danet.inference.protocol import Protocol
bulk._BATCH, bulk._ROWS = 4, 8
bulk.predict_bulk(None, {inputs!r}, Path({str(out)!r}), write="png", protocol=Protocol(), device="cpu",
    precision="float32", actors=1)
"""
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as run:
        while not list(out.glob("part-*.parquet")):
            assert run.poll() is None
            time.sleep(0.01)
        run.kill()
    there = sum(pq.read_metadata(part).num_rows for part in out.glob("part-*.parquet"))
    assert 0 < there < len(paths)
    result = predict_bulk(None, inputs, out, write="png", protocol=WHOLE, device="cpu", precision="float32")
    assert result.kept == there
    assert result.done + result.failed == len(paths) - there
    rows = check(out, paths)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert files == {row["file"] for row in rows if row["file"]}
    assert len(files) == 64
    assert not list(out.rglob(".*.part"))
    again = predict_bulk(None, inputs, out, write="png", protocol=WHOLE, device="cpu", precision="float32")
    assert again == bulk.BulkResult(0, 0, {}, len(paths))


class Deadly(Predictor):
    """An actor that whatever it is given kills."""

    def row(self, row):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_what_goes_wrong_is_one_line_and_leaves_the_callers_ray(folder, tmp_path, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run(place, progress=None):
        settings = {"write": "parquet", "protocol": WHOLE, "device": "cpu", "precision": "float32"}
        with pytest.raises(InputError) as caught:
            predict_bulk(None, [str(folder)], tmp_path / place, **settings, progress=progress)
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / place).glob("*part*"))
        assert ray.is_initialized()
        return str(caught.value)

    with bulk._ray():
        try:
            full = run("full", lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1])))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert re.search(r"cannot be written .*File too large", full)
        monkeypatch.setattr(bulk, "_RETRIES", 1)
        monkeypatch.setattr(bulk, "Predictor", Deadly)
        assert "Ray gave up" in run("deadly")
    assert not ray.is_initialized()
