"""Many images through the command: in order, each told of in the index, whatever fails, whenever it is killed."""

import csv
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from danet.cli import main
from danet.data.images import IMAGE_SUFFIXES
from danet.data.labels import LabelSpace
from danet.data.parallel import parallel_map
from danet.data.survey import init
from danet.errors import InputError
from danet.files import claimed
from danet.inference import many
from danet.inference.index import Index, Row
from danet.inference.inputs import Planned, plan
from danet.inference.many import predict_many
from danet.inference.protocol import Protocol
from danet.inference.segmenter import Segmenter, load
from danet.weights.bundle import save_bundle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, tiny_folder):
    """Runs `danet predict` in an empty folder with the model `tiny`, in float32: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main(["predict", *map(str, arguments), "--model", str(tiny_folder), "--precision", "float32"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def save(path, number=0, size=(48, 40)):
    """An image that differs from all others: squares of colour, more of them by its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    squares = np.random.default_rng(number).integers(0, 256, (1 + number % 5, 1 + number % 7, 3), np.uint8)
    Image.fromarray(squares).resize(size, Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    return [save(tmp_path / "photos" / f"{number:02}.png", number) for number in range(6)]


def index(folder="out"):
    with Path(folder, "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def visible(folder="out"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("[!.]*") if path.is_file())


def test_the_index_says_what_predictions_say(run, photos, tiny_folder):
    code, out, err = run("photos", "-o", "out", "--json")
    assert code == 0, err
    segmenter, found = load(tiny_folder, precision="float32"), json.loads(out)
    assert found["index"] == "out/index.csv"
    rows = index()
    assert [row["image"] for row in rows] == [f"photos/{path.name}" for path in photos]
    assert list(rows[0])[:9] == [
        "image", "labels", "width", "height", "seconds", "confidence", "entropy", "share_road", "share_car",
    ]  # fmt: skip
    for path, row, told in zip(photos, rows, found["predictions"], strict=True):
        prediction = segmenter(path)
        with Image.open(Path("out", row["labels"])) as labels:
            assert np.array_equal(np.asarray(labels), prediction.labels)
        assert (row["width"], row["height"], row["error"]) == ("48", "40", "")
        assert float(row["confidence"]) == pytest.approx(prediction.confidence.mean(), abs=1e-6)
        assert float(row["entropy"]) == pytest.approx(prediction.entropy.mean(), abs=1e-6)
        assert float(row["seconds"]) > 0
        for name, share in prediction.shares.items():
            assert float(row[f"share_{name}"]) == pytest.approx(share, abs=1e-6)
        assert told["shares"] == prediction.shares
        assert json.loads(Path(told["json"]).read_text())["entropy"] == pytest.approx(told["entropy"], abs=1e-4)
    assert visible() == sorted(
        ["index.csv", *(f"{path.stem}{end}" for path in photos for end in (".png", "-overlay.png", ".json"))]
    )


def test_what_to_label_next_is_what_is_least_certain(run, photos):
    Path("gone.png").symlink_to("nowhere")
    code, out, _ = run("photos", "gone.png", "-o", "out", "--sort", "uncertainty", "--json")
    assert code == 3
    entropies = [float(row["entropy"]) for row in index()[:-1]]
    assert entropies == sorted(entropies, reverse=True)
    assert len(set(entropies)) > 3
    assert index()[-1]["image"] == "gone.png"
    assert [one["image"] for one in json.loads(out)["predictions"]] == [row["image"] for row in index()[:-1]]


def test_write_says_which_files(run, photos):
    assert run("photos", "-o", "out", "--write", "labels")[0] == 0
    assert visible() == sorted(["index.csv", *(path.name for path in photos)])
    code, _, err = run("photos", "-o", "out", "--write", "labels,masks")
    assert (code, "--write masks is not known with --engine local; it knows labels, overlay, json, coco" in err) == (
        2,
        True,
    )
    code, _, err = run("photos", "-o", "out", "--engine", "ray", "--write", "overlay")
    assert (code, "it knows parquet, png" in err) == (2, True)


def test_a_protocol_is_taken(run, photos, tiny_folder):
    assert run("photos", "-o", "out", "--protocol", "mmseg-whole", "--protocol.fit", "[96, 96]")[0] == 0
    protocol = Protocol(size="fit", fit=(96, 96), resample="bilinear", fusion="logits")
    expected = load(tiny_folder, precision="float32").predict(photos[5], protocol)
    assert float(index()[5]["entropy"]) == pytest.approx(expected.entropy.mean(), abs=1e-6)
    code, _, err = run("photos", "-o", "out", "--protocol", "mmseg-hole")
    assert (code, "Did you mean mmseg-whole?" in err) == (2, True)


def test_a_list_keeps_order_and_structure_and_tells_what_is_missing(run, photos, tmp_path):
    save(tmp_path / "lists" / "b" / "x.png", 7)
    save(tmp_path / "lists" / "a" / "x.png", 8)
    (tmp_path / "lists" / "some.txt").write_bytes(
        "\ufeffb/x.png\r\n\r\na/x.png\r\na/gone.png\r\n../photos/03.png\r\n".encode()
    )
    outside = [save(tmp_path / "far" / part / "y.png", number) for number, part in enumerate(("one", "two"))]
    (tmp_path / "far.txt").write_text("".join(f"{path}\n" for path in outside))
    code, _, err = run("lists/some.txt", "far.txt", photos[0], "-o", "out")
    assert code == 3
    assert "Left out: lists/a/gone.png does not exist" in err
    rows = index()
    assert [row["image"] for row in rows] == [
        "lists/b/x.png", "lists/a/x.png", "lists/a/gone.png", "lists/../photos/03.png", *map(str, outside),
        str(photos[0]),
    ]  # fmt: skip
    assert [row["labels"] for row in rows] == ["b/x.png", "a/x.png", "", "03.png", "one/y.png", "two/y.png", "00.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\n \n", "holds no path"), (b"\xff\xfe\x00", "cannot be read (")],
)
def test_a_list_that_is_none(run, tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    code, out, err = run("a.txt", "-o", "out")
    assert (code, out) == (2, "")
    assert words in err
    assert not Path("out").exists()


def bomb(path):
    content = bytearray(save(path).read_bytes())
    content[16:24] = (30_000).to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path.write_bytes(content)


def cut(path):
    save(path, 3, (200, 200))
    path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3])


BAD = {
    "01-empty.png": (lambda path: path.write_bytes(b""), "it is empty"),
    "02-cut.jpg": (cut, "truncated"),
    "03-cut.png": (cut, "runcated"),
    "04-cut.tif": (cut, "cannot be read"),
    "05-bomb.png": (bomb, "cannot be read: 05-bomb.png, band 1"),  # window by window, as a raster
    "06-dot.png": (lambda path: save(path, size=(1, 1)), "is 1×1 pixels"),
    "07-text.png": (lambda path: path.write_text("no image"), "it is no image of a known format"),
    "08-heic.jpg": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heic"), "HEIC, whose codec is not here"),
    "10-link.png": (lambda path: path.symlink_to("nowhere"), "is a link to nowhere"),
    "11-pipe.png": (os.mkfifo, "it is a pipe or a device"),
    "12-float.tif": (lambda path: Image.fromarray(np.ones((40, 40), np.float32)).save(path), "floating-point"),
}


@pytest.mark.parametrize("write", ["labels,overlay,json", "labels,coco"])
def test_bad_files_are_one_line_each_and_the_rest_goes_on(run, tmp_path, write):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, (make, _) in BAD.items():
        make(folder / name)
    (folder / "09-folder.png").mkdir()  # is looked into, and holds nothing
    good = {"00.png", "05-cmyk.jpg", "99.png"}
    for number, name in enumerate(good):
        save(folder / name, number)
    with Image.open(folder / "05-cmyk.jpg") as image:
        image.convert("CMYK").save(folder / "05-cmyk.jpg")
    code, out, err = run("mixed", "-o", "out", "--json", "--write", write)
    assert code == 3
    found = json.loads(out)
    assert {Path(one["image"]).name for one in found["predictions"]} == good
    assert {Path(one["image"]).name for one in found["failed"]} == set(BAD)
    for one in found["failed"]:
        words = BAD[Path(one["image"]).name][1]
        assert words in one["error"]
        assert one["image"] in one["error"]
        assert "\n" not in one["error"]
        assert err.count(f"Left out: {one['error']}\n") == 1
    assert "Traceback" not in err
    assert [row["image"] for row in index()] == sorted(row["image"] for row in index())
    assert len(visible()) == (10 if "json" in write else 5)
    assert not list(Path("out").rglob("*.part"))
    code, out, _ = run("mixed/01-empty.png", "mixed/06-dot.png", "mixed/09-folder.png/../11-pipe.png", "-o", "none")
    assert code == 2
    assert out.splitlines()[-1] == "0 of 3 images → none, listed in index.csv"
    assert sum(line.startswith("Left out: ") for line in out.splitlines()) == 3
    assert visible("none") == ["index.csv"]


@pytest.mark.filterwarnings("default:.*is animated:UserWarning")
@pytest.mark.parametrize("ending", ["gif", "png"])
def test_of_an_animation_the_first_frame_is_taken_and_said(run, tmp_path, ending):
    frames = [Image.new("P", (48, 40), number) for number in (3, 200)]
    for frame in frames:
        frame.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    frames[0].save(tmp_path / f"moving.{ending}", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "first.png")
    code, _, err = run(f"moving.{ending}", "-o", "out")
    assert code == 0
    assert f"danet: moving.{ending} is animated; its first frame is taken." in err
    assert run("first.png", "-o", "out2")[0] == 0
    with Image.open("out/moving-overlay.png") as moving, Image.open("out2/first-overlay.png") as first:
        assert np.array_equal(np.asarray(moving), np.asarray(first))


@pytest.mark.parametrize("output", ["file", "file/out", "/dev/full", "/dev/null/out"])
def test_a_folder_that_cannot_be_written_to(run, photos, output):
    Path("file").write_text("in the way")
    code, out, err = run("photos", "-o", output)
    assert (code, out) == (2, "")
    assert output in err.splitlines()[-1]
    assert "choose another" in err.splitlines()[-1]
    assert len(err.splitlines()) == 1


def test_a_result_that_cannot_be_written_is_left_out_and_the_rest_goes_on(run, photos):
    Path("out/02-overlay.png/in the way").mkdir(parents=True)
    code, _, err = run("photos", "-o", "out")
    assert code == 3
    assert "Left out: " in err
    assert [bool(row["error"]) for row in index()] == [False, False, True, False, False, False]
    assert "02.png cannot be written (Is a directory)" in index()[2]["error"]
    assert not list(Path("out").rglob("*.part"))
    shutil.rmtree("out/02-overlay.png")
    code, _, err = run("photos", "-o", "out", "--resume")
    assert code == 0
    assert all(row["labels"] and not row["error"] for row in index())


@contextmanager
def files_of_at_most(size):
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)).save(path)


def all_whole(folder):
    for path in Path(folder).glob("[!.]*.png"):
        with Image.open(path) as image:
            image.load()
    return not [path for path in Path(folder).rglob("*.part") if path.name != ".mine.png.7.part"]


def test_a_limit_on_files_is_told_and_leaves_no_half(run, photos):
    noise(photos[3])
    with files_of_at_most(40_000):
        code, out, err = run("photos", "-o", "out", "--write", "labels,overlay")
    assert code == 3, err
    assert "03.png cannot be written (File too large)" in err
    assert "5 of 6 images" in out
    assert [bool(row["error"]) for row in index()] == [False, False, False, True, False, False]
    assert all_whole("out")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting needs root on Linux")
def test_a_full_disk_is_told_and_leaves_no_half(run, photos, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("This system lets no test mount a disk.")
    try:
        noise(photos[2])
        code, _, err = run("photos", "-o", disk / "out", "--write", "labels,overlay")
        assert code == 3, err
        assert "02.png cannot be written (No space left on device)" in err
        rows = index(disk / "out")
        assert [row["image"] for row in rows] == [f"photos/{path.name}" for path in photos]
        assert [bool(row["error"]) for row in rows] == [False, False, True, False, False, False]
        assert all_whole(disk / "out")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_an_index_that_cannot_be_written_ends_the_run_and_stays_whole(run, photos):
    with files_of_at_most(500):
        code, out, err = run("photos", "-o", "out", "--write", "labels")
    assert (code, out) == (2, "")
    assert "index.csv cannot be written (File too large); make room" in err.splitlines()[-1]
    assert Path("out/index.csv").read_text().endswith("\n")
    assert 0 < len(index()) < 6
    assert run("photos", "-o", "out", "--resume", "--write", "labels")[0] == 0
    assert len(index()) == 6


def stamps(folder="out"):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*") if path.suffix in (".png", ".json")}


def test_resume_does_again_only_what_is_not_as_it_was(run, photos, tiny, tiny_folder):
    assert run("photos", "-o", "out")[0] == 0
    first, rows = stamps(), index()

    def changed(*arguments):
        before = stamps()
        code, _, err = run("photos", "-o", "out", *arguments)
        assert code == 0, err
        assert [row["image"] for row in index()] == [row["image"] for row in rows]
        return {name for name, stamp in stamps().items() if before.get(name) != stamp}

    assert changed("--resume") == set()
    assert stamps() == first
    assert index() == rows
    assert changed("--resume", "--sort", "input", "--write", "labels") == set()
    Path("out/01-overlay.png").unlink()
    assert changed("--resume") == {"01.png", "01-overlay.png", "01.json"}
    os.utime("photos/02.png")
    assert changed("--resume") == {"02.png", "02-overlay.png", "02.json"}
    save(Path("photos/03.png"), 33)
    assert changed("--resume") == {"03.png", "03-overlay.png", "03.json"}
    assert changed("--resume", "--protocol", "whole-original") == first.keys()
    assert changed("--resume", "--protocol", "whole-original") == set()
    with torch.no_grad():
        tiny.model.head.classifier.bias.add_(1)
    save_bundle(tiny_folder, tiny)
    assert changed("--resume", "--protocol", "whole-original") == first.keys()
    text = Path("out/index.csv").read_bytes()
    Path("out/index.csv").write_bytes(text[: text.rindex(b"photos/05") + 40])  # as a killed process may leave it
    assert changed("--resume", "--protocol", "whole-original") == {"05.png", "05-overlay.png", "05.json"}
    assert changed() == first.keys()


STOPPED = """
import sys, time
from danet.cli import main
from danet.inference import many

predict, calls = many._predict, []

def waiting(*arguments):
    calls.append(arguments)
    if len(calls) == 10:  # when the eighth is in the index, and the ninth is being written
        print("waiting", flush=True)
        while True:  # signal.pause() would sleep on after a signal that comes just before it
            time.sleep(0.05)
    return predict(*arguments)

many._predict = waiting
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_run_leaves_whole_files_and_is_gone_on_with(run, tiny_folder, tmp_path, number):
    count = 40
    for place in range(count):
        save(tmp_path / "photos" / f"{place:02}.png", place)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".mine.png.7.part").touch()
    told = (
        "predict",
        "photos",
        "-o",
        "out",
        "--model",
        tiny_folder,
        "--precision",
        "float32",
        "--write",
        "labels,json",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, *told], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | ONE_THREAD,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == (-number if number == signal.SIGKILL else 130), err
    if number == signal.SIGINT:
        assert "Interrupted; out keeps what is done. Go on with the same command and --resume." in err
    rows, before = index(), stamps()
    assert len(rows) == 8
    assert all(row["made"] and Path("out", row["labels"]).is_file() for row in rows)
    for left in (f".{count - 1}.json", ".index.csv", ".coco.json", ".cvat.zip", "labelme/.00.json"):
        (tmp_path / "out" / left).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / f"{left}.123456.part").touch()
    assert run("photos", "-o", "out", "--resume", "--write", "labels,json")[0] == 0
    done = {name for row in rows for name in (row["labels"], row["labels"].replace(".png", ".json"))}
    assert {name: stamps()[name] for name in done} == {name: before[name] for name in done}
    assert [row["image"] for row in index()] == [f"photos/{place:02}.png" for place in range(count)]
    assert all_whole("out")
    assert Path("out/.mine.png.7.part").exists()
    assert run("photos", "-o", "whole", "--write", "labels,json")[0] == 0
    for place in range(count):
        assert Path(f"out/{place:02}.png").read_bytes() == Path(f"whole/{place:02}.png").read_bytes()


def test_two_processes_do_not_write_into_one_folder(run, photos):
    Path("out").mkdir()
    with claimed(Path("out")):
        code, _, err = run("photos", "-o", "out")
    assert (code, "out is in use by another process" in err) == (2, True)


def test_rows_come_back_as_they_were(tmp_path):
    names = ("road", 'a,"b"', "c\nd")
    rows = [
        Row("one, two.png", "a.png", 4, 3, 0.25, 0.5, 1.5, (0.5, 0.25, 0.25), "", "0" * 16),
        Row('x"\n.png', error="a, b", made="f" * 16),
        Row("b\udcff.png", "b.tif", 4, 3, 1.0, None, None, (1.0, 0.0, 0.0), "", "1" * 16),
    ]
    written = Index(tmp_path, names)
    written.write(rows[:1])
    with written.adding() as add:
        for row in rows[1:]:
            add(row)
    assert list(written.read().values()) == rows
    whole = written.path.read_bytes()
    for end in range(whole.index(b"made\n") + 5, len(whole)):  # wherever a file is cut short, whole rows alone are read
        written.path.write_bytes(whole[:end])
        assert set(written.read().values()) <= set(rows)
    assert Index(tmp_path, names[:2]).read() == {}


def test_one_segmenter_serves_many_threads(tiny, tmp_path):
    segmenter = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    draw = np.random.Generator(np.random.Philox(5))
    images = [draw.integers(0, 256, (40, 48 + 8 * (number % 3), 3), np.uint8) for number in range(12)]
    protocols = [Protocol(), Protocol(size="original", crop=(32, 32), stride=(16, 16)), Protocol(flip=True)]
    alone = [segmenter.predict(image, protocol) for image in images for protocol in protocols]
    jobs = [(image, protocol) for image in images for protocol in protocols]
    together = list(parallel_map(lambda job: segmenter.predict(*job), jobs, workers=6))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert np.array_equal(one.labels, other.labels)


def test_pre_annotations_are_what_data_init_reads(run, photos, tmp_path):
    save(tmp_path / "photos" / "more" / "50.png", 9)
    (tmp_path / "photos" / "99.png").write_bytes(b"")
    code, _, err = run("photos", "-o", "out", "--write", "labels,coco,labelme,cvat")
    assert code == 3, err
    for file, bound in (("coco.json", 0.05), ("labelme", 0.2), ("cvat.zip", 0)):
        root = tmp_path / f"own {file}"
        shutil.copytree("photos", root / "images")
        (root / "images" / "99.png").unlink()
        (shutil.copytree if file == "labelme" else shutil.copy)(Path("out", file), root / file)
        if file == "labelme":
            for path in Path("out/labelme").rglob("*.json"):
                assert (path.parent / json.loads(path.read_text())["imagePath"]).is_file()
        names = init(root).labels.names
        for row in index():
            if row["error"]:
                continue
            below = Path(row["image"]).relative_to("photos")
            with Image.open(root / "masks" / below) as mask, Image.open(Path("out", row["labels"])) as labels:
                read = np.array(names)[np.asarray(mask)]
                assert (read != np.array(["road", "car", "tree"])[np.asarray(labels)]).mean() <= bound


def test_pre_annotations_take_time_by_the_count_of_images_not_by_its_square(tiny, photos, tmp_path):
    class Never(Planned):
        def __eq__(self, other):
            raise AssertionError("images are looked up, not compared with one another")

        __hash__ = Planned.__hash__

    segmenter = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    planned = [Never(*one) for one in plan(photos, tmp_path / "out", ())]
    assert not predict_many(segmenter, planned, tmp_path / "out", Protocol(), write=["coco"]).warnings
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == len(photos)


def save_map(path, size=(60, 50)):
    """A GeoTIFF with a place on earth."""
    with rasterio.open(
        path, "w", "GTiff", width=size[0], height=size[1], count=3, dtype="uint8", crs="EPSG:32632",
        transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
    ) as file:  # fmt: skip
        file.write(np.random.default_rng(0).integers(0, 256, (3, size[1], size[0]), np.uint8))


def save_film(path, frames=12):
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=5, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode(None))


def test_rasters_and_videos_are_in_the_index_as_images_are(run, photos):
    save_map("photos/map.tif")
    save_film("film.mkv")
    arguments = ("photos", "film.mkv", "-o", "out", "--sort", "uncertainty", "--write", "labels,coco")
    code, out, err = run(*arguments, "--json")
    assert code == 3, err  # for what COCO's JSON lacks
    assert [row["labels"] for row in index()[-2:]] == ["map.tif", "film-labels.mkv"]  # of unknown certainty
    found = {Path(one["image"]).name: one for one in json.loads(out)["predictions"]}
    for row, size in zip(index()[-2:], (("60", "50"), ("64", "48")), strict=True):
        assert (row["width"], row["height"], row["entropy"], row["error"]) == (*size, "", "")
        assert sum(float(row[f"share_{name}"]) for name in ("road", "car", "tree")) == pytest.approx(1, abs=1e-5)
        told = found[Path(row["image"]).name]
        assert all(Path(told[kind]).is_file() for kind in told if kind in ("labels", "overlay", "json"))
    with rasterio.open("out/map.tif") as labels:
        assert labels.crs == rasterio.CRS.from_epsg(32632)
        assert (labels.width, labels.height) == (60, 50)
    assert "photos/map.tif is no picture, so coco has nothing of it." in err
    with av.open("out/film-labels.mkv") as film:
        assert sum(1 for _ in film.decode(video=0)) == 12
    before = {
        path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.suffix in (".tif", ".mkv", ".png")
    }
    assert run(*arguments, "--resume")[0] == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_a_raster_or_a_video_cannot_be(run, photos):
    save_map("map.tif")
    save_film("film.mkv")
    Path("film.mkv").write_bytes(Path("film.mkv").read_bytes()[: Path("film.mkv").stat().st_size // 2])
    Path("none.mp4").write_text("no video")
    os.mkfifo("pipe.mp4")
    code, _, err = run("map.tif", "film.mkv", "none.mp4", "pipe.mp4", photos[0], "-o", "out", "--protocol.flip", "true")
    assert code == 3, err
    errors = {row["image"]: row["error"] for row in index()}
    assert "map.tif: " in errors["map.tif"]
    assert "give flip: false" in errors["map.tif"]
    assert "none.mp4" in errors["none.mp4"]
    assert "pipe.mp4 cannot be read: it is a pipe or a device" in errors["pipe.mp4"]
    assert errors["film.mkv"] == errors[str(photos[0])] == ""
    assert "what could be read was written" in err
    assert visible() == [
        "00-overlay.png", "00.json", "00.png", "film-labels.mkv", "film-overlay.mp4", "film.json", "index.csv",
    ]  # fmt: skip
    assert not list(Path("out").rglob("*.part"))


def test_the_guides_commands_and_tables(run, photos, tiny_folder, tmp_path, capsys):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "predict.md").read_text(encoding="utf-8")
    shutil.copytree(tiny_folder, "runs/street/best")
    shutil.copytree("photos", "unlabelled")
    for name in ("one.jpg", "two.jpg"):
        save(tmp_path / "photos" / name, 7)
    Path("list.txt").write_text("unlabelled/01.png\n")
    save_map("map.tif")
    save_film("drive.mp4", 3)
    commands = re.findall(r"^danet (predict .*)$", guide, re.MULTILINE)
    assert len(commands) == 4
    for line in commands:
        assert main([*line.split(), "--precision", "float32"]) == 0, capsys.readouterr().err
    (line,) = re.findall(r"^python (-c .*)$", guide, re.MULTILINE)
    told = subprocess.run([sys.executable, *shlex.split(line)], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [row["image"] for row in index("next")] != []
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(code, {})
    capsys.readouterr()
    assert len(index("mixed")) == 8 + 3
    columns = ["image", "labels", "width", "height", "seconds", "confidence", "entropy", "error", "made"]
    assert [column for column in index()[0] if not column.startswith("share_")] == columns
    for name in (*columns, "share_CLASS", *many.FILES, *many.TOOLS, *many.TOOLS.values(), *IMAGE_SUFFIXES):
        assert re.search(rf"[`, ]{name}[`, ]", guide), name


@pytest.mark.slow
def test_the_engine_ray(run, photos):
    photos[2].write_bytes(b"")
    for write, count in (("parquet", 0), ("png", 5)):
        code, out, err = run("photos", "-o", write, "--engine", "ray", "--write", write, "--json", "--device", "cpu")
        assert code == 3, err
        found = json.loads(out)
        assert (found["done"], found["failed"], found["kept"]) == (5, 1, 0)
        assert "Left out: " in err
        assert len(list(Path(write).glob("*.png"))) == count
        code, out, err = run("photos", "-o", write, "--engine", "ray", "--write", write, "--device", "cpu")
        assert (code, out) == (0, f"0 of 0 images → {write}, 6 were there before\n"), err


def test_what_does_not_fit_into_memory_is_left_out(tiny, tmp_path, monkeypatch):
    segmenter = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    save(tmp_path / "a.png"), save(tmp_path / "b.png", size=(64, 64))
    logits = segmenter.logits

    def too_much(images):
        if images.shape[-1] == 64:
            torch.empty(2**60, dtype=torch.float32)  # torch's own words of memory that cannot be had
        return logits(images)

    monkeypatch.setattr(segmenter, "logits", too_much)
    planned = plan([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", (".png",))
    found = predict_many(segmenter, planned, tmp_path / "out", Protocol())
    assert [bool(row.error) for row in found.rows] == [False, True]
    assert (
        "b.png needs more memory than there is; predict it in windows, as with --protocol.crop '[512, 512]'."
        in found.rows[1].error
    )
    monkeypatch.setattr(segmenter, "logits", lambda images: images.view(3))
    with pytest.raises(RuntimeError, match="shape"):  # a fault of ours is none of the image's
        predict_many(segmenter, planned, tmp_path / "out", Protocol())


def test_a_raster_or_a_video_that_does_not_fit_is_left_out(tiny, photos, tmp_path, monkeypatch):
    segmenter = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    save_map(tmp_path / "map.tif"), save_film(tmp_path / "film.mkv", 3)
    logits = segmenter.logits

    def too_much(images):
        if images.shape[-2:] != (40, 48):
            torch.empty(2**60, dtype=torch.float32)
        return logits(images)

    monkeypatch.setattr(segmenter, "logits", too_much)
    planned = plan([tmp_path / "map.tif", tmp_path / "film.mkv", photos[0]], tmp_path / "out", ())
    found = predict_many(segmenter, planned, tmp_path / "out", Protocol())
    assert [Path(path).name for path in found.failed] == ["map.tif", "film.mkv"]
    for error, mend in zip(found.failed.values(), ("take smaller", "predict it in"), strict=True):
        assert f"needs more memory than there is; {mend} windows, as with --protocol.crop '[" in error


def test_reading_and_writing_run_beside_computing_and_not_far_from_it(tiny, photos, tmp_path, monkeypatch):
    segmenter = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    counts, seen = Counter(), []

    def counted(kind, function):
        def count(*arguments):
            result = function(*arguments)
            counts[kind] += 1
            seen.append((counts["read"] - counts["predicted"], counts["predicted"] - counts["written"]))
            threads[kind].add(threading.current_thread() is threading.main_thread())
            return result

        return count

    threads = {"read": set(), "predicted": set(), "written": set()}
    monkeypatch.setattr(many, "as_pixels", counted("read", many.as_pixels))
    monkeypatch.setattr(segmenter, "predict", counted("predicted", segmenter.predict))
    monkeypatch.setattr(many.Prediction, "save", counted("written", many.Prediction.save))
    copies = [shutil.copy(path, tmp_path / f"{turn}-{path.name}") for turn in range(5) for path in photos]
    predict_many(segmenter, plan(copies, tmp_path / "out", ()), tmp_path / "out", Protocol())
    assert counts == {"read": 30, "predicted": 30, "written": 30}
    assert threads == {"read": {False}, "predicted": {True}, "written": {False}}
    assert max(ahead for ahead, _ in seen) <= 4
    assert max(behind for _, behind in seen) <= 3


@pytest.mark.slow
def test_a_name_that_is_no_text_is_a_name_all_the_same(tiny_folder, tmp_path):
    os.rename(save(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/\xff.png")
    process = subprocess.run(
        [sys.executable, "-m", "danet", "predict", b"\xff.png", "--model", tiny_folder, "--json"],
        cwd=tmp_path, capture_output=True, env=os.environ | ONE_THREAD,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.decode(errors="surrogateescape"))["predictions"][0]["image"] == "\udcff.png"
    assert b"predictions/\xff-overlay.png" in process.stdout
    assert (tmp_path / "predictions/index.csv").read_bytes().splitlines()[1].startswith(b"\xff.png,\xff.png,48,40,")


def test_results_that_would_replace_something_are_refused(tmp_path):
    save(tmp_path / "a.png"), save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"The result .*a\.png of .*a\.jpg would replace that of .*a\.png"):
        plan([tmp_path / "a.png", tmp_path / "a.jpg"], tmp_path / "out", (".png", ".jpg"))
    with pytest.raises(InputError, match="would replace it"):
        plan([tmp_path / "a.png"], tmp_path, (".png", ".jpg"))
    (tmp_path / "a.mp4").touch(), (tmp_path / "a-overlay.mp4").touch()
    with pytest.raises(InputError, match=r"a-overlay\.mp4 of .*a\.mp4 would replace that of .*a-overlay\.mp4"):
        plan([tmp_path / "a.mp4", tmp_path / "a-overlay.mp4"], tmp_path, ())


@pytest.mark.parametrize("output", [".", "photos", "photos/deep/out"])
def test_the_output_may_be_the_input_or_lie_above_it_or_within(run, tmp_path, output):
    for name in ("a.jpg", "deep/b.jpg"):
        save(tmp_path / "photos" / name)
    for resume in ([], ["--resume"]):
        told = ["photos", *resume] if output != "photos" else ["photos/a.jpg", "photos/deep/b.jpg", *resume]
        code, _, err = run(*(told if resume else ["photos"]), "-o", output)
        assert code == 0, err
        assert [row["image"] for row in index(output)] == ["photos/a.jpg", "photos/deep/b.jpg"]


def test_an_image_is_taken_once_however_it_is_spelt(run, tmp_path):
    save(tmp_path / "photos" / "a.png"), save(tmp_path / "photos" / "b.png", 1)
    Path("link.png").symlink_to("photos/a.png")  # is a name of its own
    Path("same").symlink_to("photos")
    Path("list.txt").write_text(f"photos/a.png\nphotos/../photos/b.png\n{tmp_path}/photos/a.png\nsame/b.png\n")
    code, _, err = run("list.txt", "photos", tmp_path / "photos" / "b.png", "link.png", "-o", "out")
    assert code == 0, err
    assert [row["labels"] for row in index()] == ["photos/a.png", "photos/b.png", "link.png"]


def test_resume_takes_no_other_images_or_models_results_for_new(run, photos, tiny, tiny_folder):
    assert run("photos", "-o", "out")[0] == 0
    Path("out/mine-overlay.png").touch()
    save(Path("photos/03.png"), 33)
    assert run("photos", "-o", "out", "--resume", "--write", "labels")[0] == 0
    assert not Path("out/03-overlay.png").exists()
    assert Path("out/02-overlay.png").exists()
    with torch.no_grad():
        tiny.model.head.classifier.bias.add_(torch.tensor([5.0, 0, 0]))
    save_bundle(tiny_folder, tiny)
    assert run("photos", "-o", "out", "--resume", "--write", "labels")[0] == 0
    assert run("photos", "-o", "out", "--resume")[0] == 0
    assert run("photos", "-o", "new")[0] == 0
    for path in Path("new").glob("*.[jp]*"):
        assert path.read_bytes() == Path("out", path.name).read_bytes(), path
    assert Path("out/mine-overlay.png").exists()


@pytest.mark.parametrize(
    ("output", "theirs", "arguments"),
    [
        ("out", "index.csv", ["photos"]),
        ("out", "03.json", ["photos"]),
        ("out", "coco.json", ["photos", "--write", "coco"]),
        ("out", "labelme/x.json", ["photos", "--write", "labelme"]),
        ("out", "film-labels.mkv", ["photos", "film.mkv"]),
        ("beside", "a.png", ["beside/a.jpg"]),
        ("beside", "a-overlay.png", ["beside/a.jpg", "--resume"]),
    ],
)
def test_what_is_somebody_elses_is_not_replaced(run, photos, tmp_path, output, theirs, arguments):
    save(tmp_path / "beside" / "a.jpg"), save(tmp_path / "beside" / "b.jpg")
    save_film("film.mkv", 3)
    if output == "beside":  # a folder with an index of ours all the same
        assert run("beside/b.jpg", "-o", output)[0] == 0
    path = tmp_path / output / theirs
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path) if path.suffix == ".png" else path.write_text("tile,x\n")
    content, before = path.read_bytes(), visible(output)
    code, out, err = run(*arguments, "-o", output)
    assert (code, out) == (2, "")
    assert re.search(rf"{output}/{theirs} is no (result|index) of danet predict; move it away", err)
    assert path.read_bytes() == content
    assert set(visible(output)) - {"index.csv"} == set(before) - {"index.csv"}
    path.unlink()
    for told in (arguments, ["photos/05.png"], arguments):  # what is ours may be, whatever the index tells of
        code, _, err = run(*told, "-o", output)
        assert code == 0, err


def test_somebody_elses_label_raster_is_not_replaced(run, photos, tmp_path):
    save_map("map.tif")
    (tmp_path / "out").mkdir()
    save_map("out/map.tif")
    content = Path("out/map.tif").read_bytes()
    code, _, err = run("map.tif", "photos", "-o", "out")
    assert (code, "out/map.tif is no result of danet predict" in err) == (3, True)
    assert Path("out/map.tif").read_bytes() == content
    Path("out/map.tif").unlink()
    for again in ([], ["--resume"]):
        assert run("map.tif", "-o", "out", *again)[0] == 0


@pytest.mark.parametrize(("tool", "name"), [("coco", "coco.png"), ("labelme", "labelme/00.jpg")])
def test_a_result_in_the_way_of_a_tools_file_is_refused(run, photos, tmp_path, tool, name):
    save(tmp_path / "photos" / name)
    code, _, err = run("photos", "-o", "out", "--write", f"json,{tool}")
    assert (code, f"is in the way of out/{many.TOOLS[tool]}; rename" in err) == (2, True)
    assert not Path("out").exists()
    assert run("photos", "-o", "out", "--write", "json")[0] == 0


def test_resume_with_fewer_inputs_keeps_the_rest_of_the_index(run, photos):
    Path("gone.png").symlink_to("nowhere")
    assert run("photos", "gone.png", "-o", "out")[0] == 3
    rows = {row["image"]: row for row in index()}
    Path("out/04.png").unlink()
    code, out, _ = run("photos/05.png", "photos/03.png", "-o", "out", "--resume")
    assert (code, out) == (0, "2 of 2 images → out, listed in index.csv\n")
    assert index() == [rows[f"photos/{name}.png"] for name in ("05", "03", "00", "01", "02")]
    save(Path("more/02.png"), 44)
    assert run("more/02.png", "-o", "out", "--resume")[0] == 0  # whose label map is in the place of another's
    assert [row["image"] for row in index()] == [
        "more/02.png",
        *(f"photos/{name}.png" for name in ("05", "03", "00", "01")),
    ]
    assert run("photos/01.png", "-o", "out")[0] == 0
    assert [row["image"] for row in index()] == ["photos/01.png"]


def test_what_no_image_can_have_is_told_once_before_anything_is_made(run, photos, tiny, tiny_folder):
    code, out, err = run("photos", "-o", "out", "--protocol.classes", "[rode]")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "Did you mean road?" in err
    save_bundle(tiny_folder, replace(tiny, labels=LabelSpace("street", ("road", "a:b", "tree"))))
    code, out, err = run("photos", "-o", "out", "--write", "cvat")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "cannot hold the class name 'a:b'" in err
    assert not Path("out").exists()
