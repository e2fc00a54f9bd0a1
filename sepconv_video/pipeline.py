"""One file, or one picture between two, from beginning to end."""

from collections.abc import Callable
from pathlib import Path

from sepconv_video.engine import Engine
from sepconv_video.errors import VideoError
from sepconv_video.options import Job, Options
from sepconv_video.production import (
    Production,
    Progress,
    Report,
    Watch,
    check_free,
    check_place,
)
from sepconv_video.video import read_picture, write_picture


def interpolate_file(
    job: Job,
    options: Options | None = None,
    *,
    engine: Engine | None = None,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
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
    with production.claim():
        report = production.begin()
        if report is None:
            engine = engine or Engine.from_options(production.options)
            done = Watch(on_progress=on_progress, should_stop=should_stop)
            for span in production.spans():
                production.make(engine, span, done.after(production.frames_done()))
            report = production.join()
        production.clean()
    return report


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
    for source in (first, second):
        check_place(Job(source=source, target=target))
    check_free(Job(source=first, target=target), options)
    left, right = read_picture(first), read_picture(second)
    if left.shape != right.shape:
        raise VideoError(
            f"cannot join `{first}` and `{second}`: one is {left.shape[1]}x{left.shape[0]}, "
            f"the other {right.shape[1]}x{right.shape[0]}",
            "scale or crop one of them to the size of the other first",
        )
    write_picture(target, Engine.from_options(options).middle_picture(left, right))
