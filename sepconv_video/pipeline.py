"""One file, one stream through a pipe, or one picture between two, from beginning to end."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from sepconv_video import timing
from sepconv_video.engine import Engine
from sepconv_video.errors import Interrupted, OptionsError, VideoError
from sepconv_video.frames import Frame, Picture, Timeline, VideoInfo
from sepconv_video.numbered import is_pattern, numbered
from sepconv_video.options import Job, Options
from sepconv_video.parts import Parts
from sepconv_video.production import (
    OnProgress,
    Production,
    ShouldStop,
    Watch,
    advise,
    explained_frames,
    grid_of,
    queue_depth,
    reading_of,
    seen_fields,
    track_of,
)
from sepconv_video.report import Report
from sepconv_video.schedule import Grid
from sepconv_video.segmenting import Planner, one_frame
from sepconv_video.stream import prefetch
from sepconv_video.targets import check_free, check_place
from sepconv_video.video import (
    PIPE,
    Evenness,
    PipeWriter,
    Reader,
    SegmentWriter,
    Track,
    is_deep,
    join,
    lost_in_pipe,
    read_picture,
    write_picture,
)

_DEFAULT = Options()
_FOR_VIDEOS = (
    "fps", "slowmo", "stretch_sound", "dedup", "cuts", "start_s", "end_s", "deinterlace",
    "source_fps", "codec", "crf", "preset", "pix_fmt", "resume", "keep_parts",
)  # fmt: skip
"""Options that two pictures have no use for."""


def interpolate_file(
    job: Job,
    options: Options | None = None,
    *,
    engine: Engine | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Report:
    """Raise the frame rate of one video.

    Source frames reach the encoder bit-identical and at their exact times, new ones fall
    evenly between them; sound, subtitles, chapters and tags are copied. Segments are finished
    one after the other in `TARGET.parts`, joined at the end and renamed. After any failure,
    be it a loss of power, the same call goes on after the last finished segment.

    Args:
        job: Source and target; the target's suffix chooses the container.
        options: What to do; by default 2x with the model `fast`.
        engine: The network, to be used again for many files; by default made from `options`.
        on_progress: Called after each frame written.
        should_stop: Asked now and then; True ends the work soon and keeps what is finished.

    Returns:
        What was done. A damaged source still gives what could be decoded of it: see `damage`.

    Raises:
        Interrupted: Because of `should_stop`.
        SepConvVideoError: Anything that keeps the video from being made, with a hint.
    """
    production = Production(job, options or Options())
    with production.parts.claim():
        report = production.begin()
        if report is None:
            engine = engine or Engine.from_options(production.options)
            done = Watch(on_progress=on_progress, should_stop=should_stop)
            for span in production.spans():
                production.make(engine, span, done.after(production.frames_done()))
            report = production.join()
        production.clean()
    return report


def interpolate_stream(
    job: Job,
    options: Options | None = None,
    *,
    engine: Engine | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Report:
    """Raise the frame rate of a video that comes or goes through a pipe, in one go.

    Only pictures go through. What comes through a pipe cannot be read again: nothing of it is
    kept when this is cut short, and a target file appears complete at the end or not at all.

    Args:
        job: Source and target, at least one of them `-`: standard input or output.
        options: What to do; by default 2x with the model `fast`.
        engine: The network; by default made from `options`.
        on_progress: Called after each frame written.
        should_stop: Asked now and then; True ends the work soon, and nothing is kept.

    Returns:
        What was done. A damaged source still gives what could be decoded of it: see `damage`.

    Raises:
        Interrupted: Because of `should_stop`.
        SepConvVideoError: Anything that keeps the video from being made, with a hint.
    """
    options, started = options or Options(), time.monotonic()
    watch = Watch(on_progress=on_progress, should_stop=should_stop)
    _check_stream(job, options)
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(job.source, reading_of(options)))
        info, grid = reader.info, grid_of(options, reader.info)
        planner = Planner(info, grid, options)
        sink = _sink(job, info, grid, options, stack)
        engine = engine or Engine.from_options(options)
        made = explained_frames(_made(reader, planner, engine, stack), job.source)
        count = _write_all(sink, made, watch)
        end, end_pts = planner.end or 0, planner.end_pts or 0
        if end < 2:
            raise one_frame(job.source)
        seen, base = planner.seen(0, end), grid.time_base
        report = Report(
            target=job.target,
            source_frames=end,
            frames=count,
            kept_frames=0,
            seconds=time.monotonic() - started,
            **seen_fields(seen),
            video_s=float(end_pts * base),
            audio_s=[],
            damage=reader.damage,
            notes=[
                *reader.notes,
                *engine.notes,
                *advise(seen, end, count, options),
                *filter(None, [reader.left_out, sink.lost_messages(reader.messages)]),
            ],
        )
        return replace(report, notes=report.notes + sink.finish(report, end_pts))


def _made(
    reader: Reader, planner: Planner, engine: Engine, stack: ExitStack
) -> Iterator[list[Frame]]:
    """Decode and make frames in a thread each, which end with the stack."""
    info, depth = reader.info, queue_depth(reader.info)
    # no time limit: the sender may take as long as it likes
    pairs = timing.each("decode", planner.intervals(reader.frames(), 0))
    todo = stack.enter_context(prefetch(pairs, depth, "decode"))
    made = engine.run(todo, info, planner.most_made)
    return stack.enter_context(prefetch(made, depth, "engine"))


def _write_all(sink: "_PipeSink | _FileSink", made: Iterator[list[Frame]], watch: Watch) -> int:
    """Write all frames, and count them."""
    count = 0
    for shown in made:
        with timing.busy("encode"):
            for frame in shown:
                sink.write(frame)
        count += len(shown)
        if watch.on_progress is not None:
            watch.on_progress(count, None)
        if watch.wants_to_stop():
            raise Interrupted("interrupted: nothing is kept, as a pipe cannot be resumed")
    return count


def _refuse(options: Options, names: Iterable[str], what: str, hint: str = "leave it out") -> None:
    """Refuse options that would have no effect.

    Raises:
        OptionsError: One of these is not as it is by default.
    """
    for name in names:
        if getattr(options, name) != getattr(_DEFAULT, name):
            written = "no-resume" if name == "resume" else name.removesuffix("_s").replace("_", "-")
            raise OptionsError(f"`--{written}` has no effect on {what}", hint)


def _check_stream(job: Job, options: Options) -> None:
    """Refuse what cannot be, before anything is read.

    Raises:
        OptionsError: A target file that cannot be written, or options that are of no use here.
    """
    _refuse(options, ("keep_parts", "resume"), "a pipe: nothing of it is kept")
    if job.target != PIPE:
        check_place(job)
        check_free(job, options)
        return
    encoded = replace(options, codec=None) if options.codec == "rawvideo" else options
    _refuse(
        encoded,
        ("codec", "crf", "preset", "pix_fmt"),
        "`-`: y4m is not encoded",
        "leave it out and let the program after the pipe encode; `--codec rawvideo` writes "
        "frames without any header",
    )


def _sink(
    job: Job, info: VideoInfo, grid: Grid, options: Options, stack: ExitStack
) -> "_PipeSink | _FileSink":
    if job.target != PIPE:
        return stack.enter_context(_file_sink(job, info, grid, options))
    raw = options.codec == "rawvideo"
    writer = stack.enter_context(PipeWriter(info, grid.rate, raw=raw))
    return _PipeSink(writer, info, grid, raw=raw)


class _PipeSink:
    """Standard output."""

    def __init__(self, writer: PipeWriter, info: VideoInfo, grid: Grid, *, raw: bool) -> None:
        self._writer, self._is_raw = writer, raw
        self._notes = lost_in_pipe(info, raw=raw)
        if raw:
            size = f"{info.width}x{info.height}:{info.pix_fmt}"
            self._notes.append(f"raw video without a header: {size} at {grid.rate} frames a second")
        self._even = Evenness(grid.time_base, grid.rate)

    @staticmethod
    def lost_messages(found: set[str]) -> str:
        names = " and ".join(sorted(found))
        return f"{names} left out: only pictures go through a pipe" if found else ""

    def write(self, frame: Frame) -> None:
        self._even.add(frame.pts)
        self._writer.write(frame)

    def finish(self, _: Report, end_pts: int) -> list[str]:
        """Write what is in hand and say what was lost."""
        self._writer.finish()
        uneven = self._even.note("raw video" if self._is_raw else "y4m")
        return [*self._notes, *filter(None, [uneven])]


class _FileSink:
    """A file made from a pipe: one segment, which is joined with nothing and renamed."""

    def __init__(self, parts: Parts, track: Track, writer: SegmentWriter) -> None:
        self._parts, self._track, self._writer = parts, track, writer
        self.lost_messages = track.lost_messages
        self._start = 0  # clocks of broadcasts begin anywhere
        self._is_begun = False

    def write(self, frame: Frame) -> None:
        if not self._is_begun:
            self._start, self._is_begun = frame.pts, True
        self._writer.write(replace(frame, pts=frame.pts - self._start))

    def finish(self, report: Report, end_pts: int) -> list[str]:
        """Put the file at its place, and say what could not be kept."""
        segment = self._writer.finish(end_pts - self._start)
        path, target = self._parts.writing_path(0), self._parts.target
        # the segment stands for the source, which cannot be read for its other streams
        pieces = [(path, segment)]
        self._parts.take_over()
        joined = join(pieces, self._parts.joined, self._track, path, target, Timeline())
        self._parts.complete(report.as_json())
        return joined.notes


@contextmanager
def _file_sink(job: Job, info: VideoInfo, grid: Grid, options: Options) -> Iterator[_FileSink]:
    track = track_of(job.target, info, grid, options)
    parts = Parts(job.target, {"source": "a pipe"})
    with parts.claim():
        parts.begin(resume=False)
        path = parts.writing_path(0)
        try:
            with SegmentWriter(path, track, job.target) as writer:
                yield _FileSink(parts, track, writer)
        finally:
            with suppress(OSError):  # the folder may hold pieces of other settings
                path.unlink(missing_ok=True)


def interpolate_pictures(
    first: Path, second: Path, target: Path, options: Options | None = None
) -> list[str]:
    """Write the picture half way between two pictures of one size.

    It has 16 bits per sample where one of the two has more than 8 and its format can hold them.

    To numbered pictures, such as `between/%02d.png`, `factor - 1` are written, evenly spaced.

    Args:
        first: Earlier picture, in any format FFmpeg reads.
        second: Later picture.
        target: File to write, or the pattern of several; its suffix chooses the format.
        options: Model, device and precision; by default `fast` on what there is.

    Returns:
        What the user must know of it, one line each.

    Raises:
        SepConvVideoError: Anything that keeps the picture from being made, with a hint.
    """
    options = options or Options()
    _refuse(options, _FOR_VIDEOS, "two pictures")
    if options.factor != _DEFAULT.factor and not is_pattern(target):
        raise OptionsError(
            f"`--factor {options.factor}` makes {options.factor - 1} pictures, not one",
            f"name them by a pattern, e.g. `-o {target.with_stem(target.stem + '%02d')}`",
        )
    for source in (first, second):
        check_place(Job(source=source, target=target))
    check_free(Job(source=first, target=target), options)
    engine = Engine.from_options(options)
    with timing.busy("decode"):
        left, right = (read_picture(path, deep=is_deep(target.suffix)) for path in (first, second))
    if left.shape != right.shape:
        raise VideoError(
            f"cannot make a picture between `{first}` and `{second}`: one is "
            f"{left.shape[1]}x{left.shape[0]}, the other {right.shape[1]}x{right.shape[0]}",
            "scale or crop one of them to the size of the other first",
        )
    left, right = _of_one_depth(left, right), _of_one_depth(right, left)
    between = engine.pictures_between(left, right, options.factor)
    with timing.busy("encode"):
        for number, picture in enumerate(between, 1):
            path = numbered(target, number) if is_pattern(target) else target
            write_picture(path, picture)
    return engine.notes


def _of_one_depth(picture: Picture, other: Picture) -> Picture:
    """Give a picture 16 bits where another has them."""
    return picture if picture.itemsize >= other.itemsize else picture.astype(np.uint16) * 257
