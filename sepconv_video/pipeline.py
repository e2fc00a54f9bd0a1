"""One file from beginning to end: read, schedule, make, write, rename.

The wiring of the parts, each of which knows nothing of the others. Memory is bounded by the
two queues, whatever the length of the video; the target appears only when it is complete.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sepconv_video.engine import Engine
from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import Frame, VideoInfo
from sepconv_video.options import Job, Options
from sepconv_video.scenes import is_cut, is_duplicate
from sepconv_video.schedule import intervals
from sepconv_video.stream import prefetch
from sepconv_video.video import (
    Encoding,
    Reader,
    Writer,
    container_for,
    read_picture,
    write_picture,
)

QUEUE_BYTES = 64 * 2**20
"""Frames waiting between two threads may take this much memory."""

Progress = Callable[[int, int | None], None]
"""Called with the frames written so far and, if the source's header tells, those expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one file."""

    target: Path
    source_frames: int
    frames: int
    """Frames written: the factor times the source's."""
    seconds: float
    """Time it took."""
    cuts: list[int]
    """Indices of the source frames that begin a new shot; nothing was made across these."""
    stills: int
    """Pairs of identical frames, which were held."""
    damage: str | None
    """What was broken in the source, in one line; None if nothing."""
    notes: list[str]
    """What could not be kept or had to be converted, one line each."""

    @property
    def frames_per_s(self) -> float:
        """Frames written per second of work."""
        return self.frames / max(self.seconds, 1e-9)


def interpolate_file(
    job: Job,
    options: Options | None = None,
    *,
    engine: Engine | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Raise the frame rate of one video.

    Source frames reach the encoder bit-identical and at their exact times, new ones fall
    evenly between them; sound, subtitles, chapters and tags are copied. The target is written
    under a temporary name beside it and renamed when complete; on any failure nothing is left.

    Args:
        job: Source and target; the target's suffix chooses the container.
        options: What to do; by default 2x with the model `fast`.
        engine: The network, to be used again for many files; by default made from `options`.
        on_progress: Called after each frame written.

    Returns:
        What was done. A damaged source still gives what could be decoded of it: see `damage`.

    Raises:
        SepConvVideoError: Anything that keeps the video from being made, with a hint.
    """
    options = options or Options()
    check_target(job, options)
    engine = engine or Engine.from_options(options)
    started = time.monotonic()
    partial = job.target.with_name(f".{job.target.name}.{os.getpid()}.part")
    try:
        with Reader(job.source) as reader:
            judge, writer, written = _run(reader, engine, partial, job, options, on_progress)
        if judge.frames < 2:
            raise VideoError(
                f"nothing to do in `{job.source}`: it has one frame only",
                "a frame can only be made between two; for two pictures use "
                "`sepconv-video first.png second.png -o middle.png`",
            )
        check_target(job, options)  # somebody else may have made it meanwhile
        partial.replace(job.target)
    except VideoError as error:
        # nobody knows the partial file's name: speak of the target
        message = error.message.replace(str(partial), str(job.target))
        raise VideoError(message, error.hint) from error
    finally:
        partial.unlink(missing_ok=True)
    return Report(
        target=job.target,
        source_frames=judge.frames,
        frames=written,
        seconds=time.monotonic() - started,
        cuts=judge.cuts,
        stills=judge.stills,
        damage=reader.damage,
        notes=reader.notes + writer.notes,
    )


def _run(
    reader: Reader,
    engine: Engine,
    partial: Path,
    job: Job,
    options: Options,
    on_progress: Progress | None,
) -> tuple["_Judge", Writer, int]:
    """Write all frames to `partial`: decoding, network and encoding in a thread each."""
    info, factor = reader.info, options.factor
    judge = _Judge(info.bits)
    depth = queue_depth(info)
    # a lone frame without a duration is shown as long as the rate says
    default_duration = round(1 / (info.rate * info.time_base)) if info.rate else 1
    expected = info.frame_count_from_header
    with ExitStack() as stack:
        writer = stack.enter_context(
            Writer(
                partial,
                info,
                time_base=info.time_base / factor,
                rate=info.rate * factor,
                encoding=Encoding(
                    codec=options.codec, crf=options.crf, container=container_for(job.target)
                ),
                source=job.source,
            )
        )
        frames = judge.count(reader.frames())
        todo = stack.enter_context(
            prefetch(intervals(frames, judge, default_duration), depth, "decode")
        )
        made = stack.enter_context(prefetch(engine.run(todo, info, factor), depth, "engine"))
        written = 0
        for written, frame in enumerate(made, 1):
            writer.write(frame)
            if on_progress is not None:
                on_progress(written, expected and expected * factor)
    return judge, writer, written


def check_target(job: Job, options: Options) -> None:
    """Refuse a target that must not or cannot be written, before any work is done.

    Raises:
        OptionsError: It is the source, exists already, or has no folder to be in.
    """
    source, target = job.source, job.target
    if target.exists() and source.exists() and target.samefile(source):
        raise OptionsError(
            f"cannot write `{target}`: it is the source itself", "choose another name with `-o`"
        )
    if target.is_dir():
        raise OptionsError(
            f"cannot write `{target}`: it is a folder", "give the name of a file with `-o`"
        )
    if target.exists() and not options.overwrite:
        raise OptionsError(
            f"cannot write `{target}`: it exists already",
            "pass `--overwrite` to replace it, or choose another name with `-o`",
        )
    if not target.parent.is_dir():
        raise OptionsError(
            f"cannot write `{target}`: there is no folder `{target.parent}`",
            "make the folder first, or choose another one with `-o`",
        )


def queue_depth(info: VideoInfo) -> int:
    """How many frames of a video may wait in one queue, by their size in bytes."""
    frame_bytes = info.width * info.height * 3 * (2 if info.bits > 8 else 1)
    return max(1, min(32, QUEUE_BYTES // frame_bytes))


def interpolate_pictures(
    first: Path, second: Path, target: Path, options: Options | None = None
) -> None:
    """Write the picture half way between two pictures of one size, 8 bits per channel.

    Args:
        first: Earlier picture, in any format FFmpeg reads.
        second: Later picture.
        target: File to write; its suffix chooses the format.
        options: Model, device and precision; by default `fast` on what there is.

    Raises:
        SepConvVideoError: Anything that keeps the picture from being made, with a hint.
    """
    options = options or Options()
    check_target(Job(source=first, target=target), options)
    check_target(Job(source=second, target=target), options)
    left, right = read_picture(first), read_picture(second)
    if left.shape != right.shape:
        raise VideoError(
            f"cannot join `{first}` and `{second}`: one is {left.shape[1]}x{left.shape[0]}, "
            f"the other {right.shape[1]}x{right.shape[0]}",
            "scale or crop one of them to the size of the other first",
        )
    write_picture(target, Engine.from_options(options).middle_picture(left, right))


@dataclass(slots=True)
class _Judge:
    """Decides whether anything may be made between two frames, and keeps count."""

    bits: int
    """Depth of the samples, see `VideoInfo.bits`."""
    frames: int = 0
    stills: int = 0
    cuts: list[int] = field(default_factory=list)

    def count(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.frames += 1
            yield frame

    def __call__(self, left: Frame, right: Frame) -> bool:
        if is_duplicate(left, right):
            self.stills += 1
            return False
        if is_cut(left, right, self.bits):
            self.cuts.append(right.index)
            return False
        return True
