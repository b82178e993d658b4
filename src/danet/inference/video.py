"""Videos, frame by frame: the classes' colours over each, and a track of class indices without loss.

A frame keeps its place and its presentation time, whatever the rates: the overlay is H.264 in MP4, in the input's own
time base; the labels are FFV1 in Matroska (RFC 9043, RFC 9559), 8-bit grey whose values are the class indices, at times
rounded to Matroska's milliseconds. Sound is left out. Memory does not depend on the length: the main thread decodes
and encodes, one predicts and one draws, each at most a frame ahead of the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from danet.data.parallel import Progress, ahead
from danet.errors import InputError
from danet.files import explained, written_aside
from danet.inference.protocol import Protocol
from danet.inference.segmenter import Segmenter
from danet.viz.overlay import overlay

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
    ".ogv",
)  # fmt: skip


class _Track(NamedTuple):
    """How a track is kept: container, encoder and its options, the pixels that it is given, and those it holds."""

    container: str
    encoder: str
    options: dict[str, str]
    given: str
    held: str


_OVERLAY = _Track("mp4", "libx264", {"crf": "20", "preset": "veryfast"}, "rgb24", "yuv420p")
_LABELS = _Track("matroska", "ffv1", {"level": "3"}, "gray", "gray")
_BT709, _LIMITED = 1, 1  # the colours that players take for granted


class VideoResult(NamedTuple):
    """The files written (overlay, labels, json), how many frames each track has, and what was not as it should be."""

    paths: dict[str, Path]
    frames: int
    warning: str = ""


class Frame(NamedTuple):
    """A frame, upright, and its presentation time in units of the video's time base."""

    pixels: UInt8[np.ndarray, "h w 3"]
    time: int


_Predicted: TypeAlias = tuple[int, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]
"""A frame's time, picture and labels."""


def video_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Where `predict_video` writes: STEM-overlay.mp4, STEM-labels.mkv and STEM.json."""
    return {
        "overlay": folder / f"{stem}-overlay.mp4",
        "labels": folder / f"{stem}-labels.mkv",
        "json": folder / f"{stem}.json",
    }


def predict_video(
    segmenter: Segmenter,
    path: str | Path,
    folder: str | Path,
    stem: str,
    protocol: Protocol,
    progress: Progress | None = None,
) -> VideoResult:
    """Predict every frame of a video of any container; write `video_paths`, of which none is ever half there.

    Of a video that was cut short or is damaged in places, what could be read is written, and `warning` says so.
    Raises InputError for what is no video or holds no frame, and for files that cannot be written.
    """

    def predict(frame: Frame) -> _Predicted:
        try:
            prediction = segmenter.predict(Image.fromarray(frame.pixels), protocol)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return frame.time, prediction.image, prediction.labels

    def draw(predicted: _Predicted) -> _Predicted:
        time, image, labels = predicted
        picture = np.asarray(overlay(image, labels, segmenter.labels, legend=False))
        height, width = labels.shape  # H.264 keeps one colour for 2×2 pixels
        return time, np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"), labels

    paths, start = video_paths(Path(folder), stem), perf_counter()
    counts, frames = np.zeros(256, np.int64), 0
    with Video(Path(path)) as video, explained(Path(folder), "choose another folder with -o, or make room"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with (
            written_aside(paths["overlay"]) as overlay_file,
            written_aside(paths["labels"]) as labels_file,
            _written(overlay_file, _OVERLAY, video) as write_overlay,
            _written(labels_file, _LABELS, video) as write_labels,
        ):
            for time, picture, labels in ahead(draw, ahead(predict, video, 1), 1):
                write_overlay(picture, time)
                write_labels(labels, time)
                counts += np.bincount(labels.ravel(), minlength=256)
                frames += 1
                if progress is not None:
                    progress(frames, max(frames + 1, video.expected))
        if progress is not None:
            progress(frames, frames)  # how many there would be was but expected
        shares = counts[: segmenter.labels.num_classes] / counts.sum()
        facts = {
            "width": video.size[0],
            "height": video.size[1],
            "fps": round(float(video.rate), 3),
            "frames": frames,
            "seconds_per_frame": round((perf_counter() - start) / frames, 4),
            "protocol": protocol.to_dict(),
            "shares": dict(zip(segmenter.labels.names, shares.round(6).tolist(), strict=True)),
            "warning": video.warning,
        }
        with written_aside(paths["json"]) as aside:
            aside.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return VideoResult(paths, frames, video.warning)


class Video:
    """A video file as Frames, in the order of their times, once; then `warning` says what could not be read.

    `size` (width, height) is that of the first frame as people see it; where later ones differ they are resized.
    Times that are missing (raw streams have none) are counted on from the rate. Transport streams do not say how long
    they are, so that one that was cut short is known by its damaged end alone.
    Raises InputError for a file that is missing, no video, of an unknown codec or without any frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container = _opened(path)
        try:
            self._stream = stream = _pictures(path, self._container)
            self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.time_base: Fraction = stream.time_base or 1 / self.rate
            self._end = _end(self._container, stream)
            self.expected: int = stream.frames or round((self._end or 0) * self.rate)
            self.aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
            self._damaged = self._moved = 0
            self._until = self._step = Fraction(0)
            self._frames = self._timed()
            self._first = next(self._frames, None)
            if self._first is None:
                raise InputError(f"{path} holds no frame that can be read; copy or export it again.")
        except BaseException:
            self._container.close()
            raise
        self.size: tuple[int, int] = self._first.pixels.shape[1], self._first.pixels.shape[0]

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        while self._first is not None:
            yield self._first
            self._first = next(self._frames, None)

    @property
    def warning(self) -> str:
        """What was missing, damaged or put right so far; empty where nothing was."""
        told, end = [], self._end
        if end is not None and self._until < end - 2 * self._step:
            told.append(f"it ends after {float(self._until):.2f} of {float(end):.2f} seconds")
        if self._damaged:
            told.append(f"{self._damaged} of its parts are damaged")
        if self._moved:
            told.append(f"its time ran backwards {self._moved} times, and was moved on")
        return f"{self.path}: {', '.join(told)}; what could be read was written." if told else ""

    def _timed(self) -> Iterator[Frame]:
        """The frames at times that rise: 0 at the earliest, and moved on together where they run backwards."""
        step, last, shift, size = max(round(1 / self.rate / self.time_base), 1), -1, 0, None
        for frame in self._decoded():
            moment = next((t for t in (frame.pts, frame.dts) if t is not None), None)
            if moment is None:
                moment = last + step - shift if last >= 0 else 0
            if moment + shift <= last:
                self._moved += last >= 0
                shift = last - moment + (step if last >= 0 else 1)
            lasts = moment + shift - last if last >= 0 else step  # the rate of uneven videos may tell nothing
            last = moment + shift
            self._step = max(lasts, step) * self.time_base
            self._until = (last + (frame.duration or lasts)) * self.time_base
            turns = round(frame.rotation / 90)
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
            if size is None:
                size = pixels.shape[1::-1]
                self.aspect = 1 / self.aspect if turns % 2 else self.aspect
            elif pixels.shape[1::-1] != size:
                pixels = np.asarray(Image.fromarray(pixels).resize(size))
            yield Frame(np.ascontiguousarray(pixels), last)

    def _decoded(self) -> Iterator[VideoFrame]:
        """The frames of the file as they are, past what is damaged, up to where nothing can be read any more."""
        from av.error import FFmpegError

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                self._damaged, packet = self._damaged + 1, None
            try:
                yield from self._stream.decode(packet)  # None: what the decoder still has
            except FFmpegError as error:
                self._damaged += not isinstance(error, EOFError)
            if packet is None:
                return


def _opened(path: Path) -> InputContainer:
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise InputError(f"{path} is a video, which needs PyAV: pip install 'danet[video]'.") from None
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a video file.")
    try:
        # A playlist could name other files, or the network.
        container = av.open(f"file:{path}", "r", options={"protocol_whitelist": "file"})
    except FFmpegError as error:
        raise InputError(_unreadable(path, error.strerror or "it is damaged")) from None
    if not len(container.streams):
        container.close()
        raise InputError(_unreadable(path, "it holds nothing"))
    return container


def _unreadable(path: Path, reason: str) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return f"{path} is empty (0 bytes); copy or export it again."
    if head[4:8] == b"ftyp":
        return (
            f"{path} has no index ({reason}): an MP4 keeps it at its end, or in parts, where it was cut short. Copy "
            "the file again, or restore it with a tool such as untrunc."
        )
    return f"{path} cannot be read as a video: {reason}. Copy or export it again."


def _pictures(path: Path, container: InputContainer) -> VideoStream:
    """The container's video, to be decoded in several threads."""
    from av.stream import Disposition

    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of a record
        raise InputError(f"{path} holds no video; give a file with moving pictures.")
    if stream.codec_context is None:
        raise InputError(f"{path} is of a codec that PyAV does not know; convert it to H.264, VP9 or AV1.")
    stream = cast("VideoStream", stream)
    stream.thread_type = "AUTO"
    return stream


def _end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Where the file says that its pictures end, in seconds; None where it does not."""
    if stream.duration and stream.time_base:
        return (stream.duration + (stream.start_time or 0)) * stream.time_base
    clock = stream.metadata.get("DURATION", "").split(":")  # Matroska's: hours, minutes, seconds
    if len(clock) == 3:
        return int(clock[0]) * 3600 + int(clock[1]) * 60 + Fraction(clock[2])
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)
    return None


@contextmanager
def _written(path: Path, track: _Track, video: Video) -> Iterator[Callable[[UInt8[np.ndarray, "h w *c"], int], None]]:
    """What writes pictures and their times, in the video's time base, to a file of one track. Raises OSError."""
    import av
    from av.error import FFmpegError

    # FFmpeg would choose another time base for MP4, which knows whole fractions of a second.
    timescale = {"video_track_timescale": str(video.time_base.denominator)} if track.container == "mp4" else {}
    try:
        with path.open("wb") as file, av.open(file, "w", track.container, timescale) as output:
            try:
                stream = cast("VideoStream", output.add_stream(track.encoder, video.rate, track.options))
            except ValueError:
                raise InputError(
                    f"This PyAV cannot encode {track.encoder}, which the results for videos need; install it from the "
                    "registry: pip install 'danet[video]'."
                ) from None
            context = stream.codec_context
            stream.time_base = context.time_base = video.time_base
            context.max_b_frames = 0  # with them FFmpeg tells a wrong length of an MP4 whose rate varies
            context.sample_aspect_ratio = video.aspect
            if track.held != track.given:
                context.colorspace = context.color_primaries = context.color_trc = _BT709
                context.color_range = _LIMITED

            def write(picture: UInt8[np.ndarray, "h w *c"], time: int) -> None:
                frame = av.VideoFrame.from_ndarray(picture, track.given)
                if track.held != track.given:
                    frame = frame.reformat(format=track.held, dst_colorspace="ITU709", dst_color_range="MPEG")
                if not context.is_open:
                    context.width, context.height, context.pix_fmt = frame.width, frame.height, track.held
                frame.pts, frame.time_base = time, video.time_base
                output.mux(stream.encode(frame))

            yield write
            output.mux(stream.encode(None))
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror) from None
