"""Videos in, overlays and label tracks out: every frame in its place and at its time."""

import json
import resource
import sys
import tracemalloc
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from danet.errors import InputError
from danet.inference import video
from danet.inference.protocol import PROTOCOLS, Protocol
from danet.inference.segmenter import load
from danet.inference.video import Video, predict_video, video_paths
from danet.viz.overlay import overlay

WHOLE = Protocol()
SIZE = (96, 64)
STEADY = tuple(range(0, 24 * 512, 512))
UNEVEN = tuple(np.cumsum([0, 1001, 1001, 2998, 1000, 5000, 500, 500, 7000, 1001, 1001, 40000]).tolist())


@pytest.fixture(scope="module")
def segmenter():
    return load(device="cpu", precision="float32")


def picture(number, size=SIZE):
    """A picture that tells its number: eight upright stripes, black or white by its bits, over a patch of colour."""
    width, height = size
    bits = np.array([number >> bit & 1 for bit in range(8)], np.uint8)
    pixels = np.repeat((40 + 175 * bits)[np.arange(width) * 8 // width][None, :, None], height, 0).repeat(3, 2)
    pixels[2 * height // 3 :] = (200, 40 + 6 * number % 200, 40)
    return pixels


def number_of(pixels):
    """The number that the stripes of a picture tell."""
    row, width = pixels[pixels.shape[0] // 3].mean(-1), pixels.shape[1]
    return sum(int(row[(2 * bit + 1) * width // 16] > 128) << bit for bit in range(8))


def film(path, times=STEADY, base=Fraction(1, 12800), size=SIZE, codec="libx264", rate=25, first=0, turn=0, **options):
    """Write a video whose frame i shows the number first + i at time times[i] × base."""
    with av.open(path, "w", options=options.pop("container", {})) as output:
        stream = output.add_stream(codec, rate=rate, options={"g": "12", **options})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = base
        if turn:
            stream.set_display_rotation(turn)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(first + index, size), "rgb24")
            frame.pts, frame.time_base = time, base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def frames(path, form="rgb24"):
    """What PyAV alone reads: times in seconds, and pictures."""
    with av.open(path) as container:
        found = [(frame.pts * frame.time_base, frame.to_ndarray(format=form)) for frame in container.decode(video=0)]
    return [time for time, _ in found], [pixels for _, pixels in found]


@pytest.mark.parametrize(
    ("name", "times", "base", "options"),
    [
        ("steady.mp4", STEADY, Fraction(1, 12800), {"bf": "3"}),
        ("uneven.mp4", UNEVEN, Fraction(1, 30000), {"bf": "0"}),
        ("uneven-b.mp4", UNEVEN, Fraction(1, 30000), {"bf": "3"}),
        ("late.mp4", [60000 + time for time in UNEVEN], Fraction(1, 30000), {"bf": "2"}),
        ("ntsc.mov", range(20), Fraction(1001, 30000), {"bf": "2", "rate": Fraction(30000, 1001)}),
        ("uneven.mkv", UNEVEN, Fraction(1, 1000), {"bf": "3"}),
        ("steady.webm", range(0, 800, 40), Fraction(1, 1000), {"codec": "libvpx-vp9", "cpu-used": "8"}),
        ("steady.ts", range(0, 20 * 3600, 3600), Fraction(1, 90000), {"bf": "2"}),
        ("old.avi", range(20), Fraction(1, 25), {"codec": "mpeg4"}),
        ("old.mpg", range(20), Fraction(1, 25), {"codec": "mpeg2video"}),
        ("intra.mov", range(0, 8000, 400), Fraction(1, 10000), {"codec": "mjpeg", "strict": "unofficial"}),
    ],
)
def test_every_frame_has_its_place_and_its_time(segmenter, tmp_path, name, times, base, options):
    source = film(tmp_path / name, times, base, **options)
    seen, told = [], lambda done, total: seen.append((done, total))
    result = predict_video(segmenter, source, tmp_path / "out", "a", WHOLE, told)
    expected, pictures = frames(source)
    assert [number_of(pixels) for pixels in pictures] == list(range(len(times)))  # the input is what it claims to be
    assert result == (video_paths(tmp_path / "out", "a"), len(times), "")
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted(result.paths.values())

    found, overlays = frames(result.paths["overlay"])
    assert found == expected
    moments, labels = frames(result.paths["labels"], "gray")
    assert max(abs(a - b) for a, b in zip(moments, expected, strict=True)) <= Fraction(1, 2000)
    predicted = [segmenter.predict(pixels).labels for pixels in pictures]
    assert all((one != other).any() for one, other in pairwise(predicted))
    drawn = [
        np.asarray(overlay(*both, segmenter.labels, legend=False), int)
        for both in zip(pictures, predicted, strict=True)
    ]
    for index, shown in enumerate(overlays):
        assert np.array_equal(labels[index], predicted[index])
        assert np.argmin([np.abs(shown - other).mean() for other in drawn]) == index
        assert np.abs((shown - drawn[index]).mean((0, 1))).max() < 3  # the colours are what they were
    assert [done for done, _ in seen] == [*range(1, len(times) + 1), len(times)]
    assert all(done < total for done, total in seen[:-1])
    assert seen[-1] == (len(times), len(times))

    facts = json.loads(result.paths["json"].read_text())
    shares = np.bincount(np.ravel(predicted), minlength=segmenter.labels.num_classes) / np.size(predicted)
    assert (facts["width"], facts["height"], facts["frames"], facts["warning"]) == (*SIZE, len(times), "")
    assert list(facts["shares"].values()) == pytest.approx(shares.tolist(), abs=1e-6)
    assert facts["seconds_per_frame"] > 0
    assert facts["protocol"] == WHOLE.to_dict()


def test_the_time_base_of_the_overlay_is_the_inputs(segmenter, tmp_path):
    for base in (Fraction(1, 90000), Fraction(1, 600), Fraction(1, 1000)):
        source = film(tmp_path / "a.mp4", range(0, 90, 30), base, container={"video_track_timescale": str(1 / base)})
        with av.open(predict_video(segmenter, source, tmp_path, "a", WHOLE).paths["overlay"]) as container:
            assert container.streams.video[0].time_base == base


def test_odd_sizes_are_padded_in_the_overlay_alone(segmenter, tmp_path):
    source = film(tmp_path / "odd.mkv", range(0, 120, 40), Fraction(1, 1000), (97, 65), codec="ffv1")
    result = predict_video(segmenter, source, tmp_path, "odd", WHOLE)
    overlays, labels = frames(result.paths["overlay"])[1], frames(result.paths["labels"], "gray")[1]
    assert {pixels.shape for pixels in overlays} == {(66, 98, 3)}
    assert np.abs(overlays[0][64].astype(int) - overlays[0][65]).mean() < 12
    for pixels, found in zip(frames(source)[1], labels, strict=True):
        assert np.array_equal(found, segmenter.predict(pixels).labels)
    assert json.loads(result.paths["json"].read_text())["width"] == 97


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_turned_videos_are_predicted_upright(segmenter, tmp_path, turn):
    source = film(tmp_path / "turned.mp4", STEADY[:3], turn=turn)
    result = predict_video(segmenter, source, tmp_path, "turned", WHOLE)
    upright = [np.rot90(pixels, turn // 90) for pixels in frames(source)[1]]
    for pixels, found in zip(upright, frames(result.paths["labels"], "gray")[1], strict=True):
        assert np.array_equal(found, segmenter.predict(np.ascontiguousarray(pixels)).labels)
    with av.open(result.paths["overlay"]) as container:
        frame = next(container.decode(video=0))
        assert (frame.rotation, frame.height, frame.width) == (0, *upright[0].shape[:2])


def test_pixels_that_are_no_squares_stay_so(segmenter, tmp_path):
    for turn, expected in ((0, Fraction(4, 3)), (90, Fraction(3, 4))):
        path = tmp_path / "wide.mp4"
        with av.open(path, "w") as output:
            stream = output.add_stream("libx264", rate=25)
            stream.width, stream.height = SIZE
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            if turn:
                stream.set_display_rotation(turn)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(1), "rgb24")))
            output.mux(stream.encode(None))
        with av.open(predict_video(segmenter, path, tmp_path, "wide", WHOLE).paths["overlay"]) as container:
            assert container.streams.video[0].sample_aspect_ratio == expected


def test_the_protocol_is_the_predictions(segmenter, tmp_path):
    source = film(tmp_path / "a.mkv", range(0, 120, 40), Fraction(1, 1000), codec="ffv1")
    flipped = PROTOCOLS["whole"][0].model_copy(update={"flip": True, "scales": (1.0, 1.5)})
    labels = frames(predict_video(segmenter, source, tmp_path, "a", flipped).paths["labels"], "gray")[1]
    plain = [segmenter.predict(pixels).labels for pixels in frames(source)[1]]
    for pixels, found, other in zip(frames(source)[1], labels, plain, strict=True):
        assert np.array_equal(found, segmenter.predict(pixels, flipped).labels)
        assert (found != other).any()


@pytest.mark.parametrize(
    ("name", "kept", "options"),
    [
        ("fast.mp4", 0.6, {"container": {"movflags": "faststart"}}),
        ("fast.mp4", 0.95, {"container": {"movflags": "faststart"}}),
        ("fragments.mp4", 0.6, {"container": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", 0.6, {"base": Fraction(1, 1000), "times": range(0, 960, 40)}),
        ("a.mkv", 0.9, {"base": Fraction(1, 1000), "times": range(0, 960, 40)}),
        ("a.avi", 0.8, {"base": Fraction(1, 25), "times": range(24), "codec": "mpeg4"}),
        ("a.flv", 0.7, {"base": Fraction(1, 1000), "times": range(0, 960, 40)}),
    ],
)
def test_of_a_truncated_video_what_could_be_read_is_written_with_a_warning(segmenter, tmp_path, name, kept, options):
    whole = film(tmp_path / name, **options)
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * kept)])
    result = predict_video(segmenter, whole, tmp_path, "cut", WHOLE)
    assert 0 < result.frames < 24
    assert result.warning.startswith(f"{whole}: ")
    assert "what could be read was written" in result.warning
    assert json.loads(result.paths["json"].read_text())["warning"] == result.warning
    shown = [number_of(pixels) for pixels in frames(whole.with_name("cut-overlay.mp4"))[1]]
    assert len(shown) == len(frames(result.paths["labels"], "gray")[1]) == result.frames


def test_what_is_no_video_is_one_line(tmp_path):
    good = film(tmp_path / "good.mp4").read_bytes()
    files = {
        "empty.mp4": b"",
        "text.mp4": b"hello\n" * 500,
        "cut.mp4": good[: len(good) // 2],
        "head.mp4": good[:20],
        "unknown.mp4": good.replace(b"avc1", b"zzzz"),
        "damaged.mp4": good[:48] + bytes(len(good) // 2) + good[48 + len(good) // 2 :],
        "list.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n#EXT-X-ENDLIST\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with av.open(tmp_path / "sound.mp4", "w") as output:
        stream = output.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        output.mux([*stream.encode(sound), *stream.encode(None)])
    with av.open(tmp_path / "nothing.mkv", "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height = SIZE
        output.start_encoding()
    (tmp_path / "folder.mp4").mkdir()
    for name, told in {
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read as a video",
        "cut.mp4": "has no index",
        "head.mp4": "has no index",
        "unknown.mp4": "of a codec that PyAV does not know",
        "sound.mp4": "holds no video",
        "nothing.mkv": "cannot be read as a video",
        "damaged.mp4": "no frame",
        "missing.mp4": "does not exist",
        "folder.mp4": "is a folder",
        "list.mp4": "cannot be read as a video",
    }.items():
        with pytest.raises(InputError, match=told) as caught:
            Video(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_frames_too_small_for_the_network_are_one_line_and_leave_nothing(segmenter, tmp_path):
    source = film(tmp_path / "small.mp4", STEADY[:3], size=(48, 24))
    with pytest.raises(InputError, match=r"small\.mp4.*48×24"):
        predict_video(segmenter, source, tmp_path / "out", "small", WHOLE)
    assert list((tmp_path / "out").iterdir()) == []


def test_times_that_run_backwards_and_other_sizes_are_put_right(segmenter, tmp_path):
    parts = [
        film(tmp_path / f"{index}.ts", range(0, 10 * 3600, 3600), Fraction(1, 90000), size, first=10 * index, bf="0")
        for index, size in enumerate((SIZE, (128, 80)))
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = predict_video(segmenter, both, tmp_path, "both", WHOLE)
    times, overlays = frames(result.paths["overlay"])
    assert result.frames == 20
    assert "ran backwards 1 times" in result.warning
    steps = [after - before for before, after in pairwise(times)]
    assert set(steps) == {Fraction(1, 25)}
    assert {pixels.shape for pixels in overlays} == {(64, 96, 3)}


def test_memory_does_not_grow_with_the_length(segmenter, tmp_path):
    peaks = []
    for count in (12, 96):
        source = film(tmp_path / "long.mp4", range(0, 512 * count, 512))
        tracemalloc.start()
        predict_video(segmenter, source, tmp_path, "long", WHOLE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 12 * 96 * 64 * 3


def test_few_frames_are_on_their_way_at_once(segmenter, tmp_path, monkeypatch):
    read, written, gap = [], [], []
    times = Video._timed

    def counted(self):
        for frame in times(self):
            read.append(frame.time)
            gap.append(len(read) - len(written))
            yield frame

    monkeypatch.setattr(Video, "_timed", counted)
    source = film(tmp_path / "a.mp4", range(0, 512 * 40, 512))
    predict_video(segmenter, source, tmp_path, "a", WHOLE, lambda done, _: written.append(done))
    assert len(read) == len(written) - 1 == 40
    assert 2 <= max(gap) <= 6


def test_files_that_cannot_be_written_are_one_line_and_none_is_half_there(segmenter, tmp_path):
    source = film(tmp_path / "a.mp4", STEADY[:4])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        predict_video(segmenter, source, tmp_path / "file", "a", WHOLE)
    with pytest.raises(InputError, match="cannot be written"):
        predict_video(segmenter, source, tmp_path / "file" / "deeper", "a", WHOLE)
    (tmp_path / "out" / "a-labels.mkv").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"):
        predict_video(segmenter, source, tmp_path / "out", "a", WHOLE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-labels.mkv"]


def test_a_full_disk_leaves_nothing_half_written(segmenter, tmp_path):
    source = tmp_path / "noise.mkv"
    with av.open(source, "w") as output:
        stream = output.add_stream("mjpeg", rate=25, options={"strict": "unofficial"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuvj420p"
        for index in range(40):
            noise = np.random.Generator(np.random.Philox(index)).integers(0, 256, (64, 96, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        output.mux(stream.encode(None))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\)"):
            predict_video(segmenter, source, tmp_path / "out", "a", WHOLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_encoder_is_one_line(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_OVERLAY", video._OVERLAY._replace(encoder="libx999"))
    with pytest.raises(InputError, match="cannot encode libx999"):
        predict_video(segmenter, film(tmp_path / "a.mp4", STEADY[:2]), tmp_path / "out", "a", WHOLE)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_pyav_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'danet\[video\]'"):
        Video(tmp_path / "a.mp4")


def test_colons_in_a_name_are_no_protocol(tmp_path):
    film(tmp_path / "a.mp4").rename(tmp_path / "12:30.mp4")
    with Video(tmp_path / "12:30.mp4") as opened:
        assert len(list(opened)) == len(STEADY)


def test_a_picture_is_its_number():
    assert [number_of(picture(number)) for number in range(64)] == list(range(64))
    assert Image.fromarray(picture(3)).size == SIZE
