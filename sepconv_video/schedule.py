"""What lies between the source frames, and when: a video becomes intervals, an interval times.

Pure: it looks at indices and ticks, never at pixels, and knows neither the network nor the
codec. Whether two frames may be joined is decided by a callable that the caller gives.

All times are integer ticks. The output's time base is the source's divided by the factor, so
that a source frame keeps its exact time (`factor * pts` of the finer ticks) and every new
frame falls on a whole tick: no rounding, at a constant and at a variable rate alike.
"""

from collections.abc import Callable, Iterable, Iterator

from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame, Interval
from sepconv_video.options import check_factor


def intervals(
    frames: Iterable[Frame],
    synthesise: Callable[[Frame, Frame], bool],
    default_duration: int = 1,
) -> Iterator[Interval]:
    """Pair each frame with the next, looking one frame ahead and storing nothing.

    Args:
        frames: In presentation order, `pts` strictly increasing.
        synthesise: Called once as `synthesise(left, right)` for each pair of neighbours; False
            where nothing may be invented between them, as at a cut or in a still.
        default_duration: Ticks that a lone frame is shown if its stream does not say; at
            least 1.

    Yields:
        One interval per frame. The last has no `right`, is never synthesised, and ends after
        the frame's own duration or, where the stream does not say, after the time between the
        last two frames, so that the video keeps its duration and a constant rate.

    Raises:
        VideoError: A frame does not come after the one before it.
    """
    left, delta = None, max(default_duration, 1)
    for right in frames:
        if left is not None:
            delta = right.pts - left.pts
            if delta <= 0:
                raise _out_of_order(left, right)
            joined = synthesise(left, right)
            yield Interval(left=left, right=right, end_pts=right.pts, synthesise=joined)
        left = right
    if left is not None:
        end_pts = left.pts + (left.duration if left.duration > 0 else delta)
        yield Interval(left=left, right=None, end_pts=end_pts, synthesise=False)


def _out_of_order(left: Frame, right: Frame) -> VideoError:
    return VideoError(
        f"cannot order the frames: frame {right.index} at {right.pts} ticks does not come "
        f"after frame {left.index} at {left.pts} ticks",
        "rewrite the time stamps first, e.g. `ffmpeg -i in.mp4 -vf setpts=N/FR/TB out.mp4`",
    )


def output_pts(interval: Interval, factor: int) -> list[int]:
    """Say when the `factor` output frames of an interval are shown.

    Frame `k` is shown at `factor * left.pts + k * (end_pts - left.pts)`: evenly spaced, the
    first exactly when `left` was, each for `end_pts - left.pts` of the finer ticks. Over a
    whole video the times are strictly increasing, `factor` times as many as the source's.

    Args:
        interval: Any interval of `intervals`.
        factor: 2, 4 or 8.

    Returns:
        `factor` presentation times in ticks of `time_base / factor`.

    Raises:
        OptionsError: The factor is none of the accepted ones.
    """
    check_factor(factor)
    step = interval.end_pts - interval.left.pts
    start = factor * interval.left.pts
    return [start + k * step for k in range(factor)]


def held_frame(interval: Interval, factor: int, k: int) -> Frame:
    """Say which source frame is shown at position `k` of an interval that is held.

    The nearer in time; half way, `left`: so a cut never comes earlier than in the source, and
    at a factor of 2 it comes exactly when it did. After the last frame there is only `left`.

    Args:
        interval: An interval whose `synthesise` is False.
        factor: 2, 4 or 8.
        k: Position in the interval, 0 to `factor - 1`.

    Returns:
        `interval.left` or `interval.right`, as decoded.

    Raises:
        OptionsError: The factor is none of the accepted ones.
    """
    check_factor(factor)
    if not 0 <= k < factor:
        raise IndexError(f"position {k} is not within 0 to {factor - 1}")
    if interval.right is None or 2 * k <= factor:
        return interval.left
    return interval.right
