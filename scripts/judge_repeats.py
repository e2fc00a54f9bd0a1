#!/usr/bin/env python3
"""Measure how well repeated frames are told from new ones, and for which limit.

    python scripts/judge_repeats.py ../shared/data

Clips are played as they are, on twos and on threes, and encoded with H.264 at crf 18, 23 and
28. A pair is a repeat if it shows one source frame. Not counted are pairs of different source
frames that are the same picture all the same (no 8 x 8 samples of them change by 3 levels of
255 before encoding: the source itself repeats or stands still). The limit is chosen on the
clips of `train`; Big Buck Bunny, the only animation there, is shown alone too.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from math import inf
from pathlib import Path

import av
import click
import numpy as np

from sepconv_video import scenes
from sepconv_video.frames import Frame

FRAMES = 24
CLIPS = {
    "train, Big Buck Bunny": ("train/bbb_*",),
    "train": tuple(
        f"train/{name}*"
        for name in ("bbb_", "davis_b", "pexels_81", "asl_book", "sam2_0", "flutter_bee", "p2s_t1")
    ),
    "val": ("val/*",),
}
LIMITS = (3, 4, 6, 8, 9, 10, 11, 12, 14, 17)


def decoded(source: Path | io.BytesIO) -> list[np.ndarray]:
    with av.open(source) as container:
        frames = [f.to_ndarray(format="yuv420p") for f in container.decode(video=0)]
    return frames[: FRAMES * 3]


def encoded(frames: list[np.ndarray], often: int, crf: int) -> io.BytesIO:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        for k in range(len(frames) * often):
            frame = av.VideoFrame.from_ndarray(frames[k // often], "yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    target.seek(0)
    return target


def frame_of(codes: np.ndarray) -> Frame:
    return Frame(index=0, pts=0, duration=1, planes=(codes[: codes.shape[0] * 2 // 3],))


def least_limit(left: np.ndarray, right: np.ndarray) -> float:
    """The least of the limits under which two pictures are a repeat; infinite if none."""
    for limit in LIMITS:
        scenes.REPEAT_CHANGE = limit
        if scenes.is_repeat(frame_of(left), frame_of(right), 8):
            return limit
    return inf


def pairs(path: Path) -> Iterator[tuple[bool, float]]:
    """For each pair of neighbours whether it is a repeat, and the least limit that says so."""
    source = decoded(path)[:FRAMES]
    for often in (1, 2, 3):
        frames = source[: FRAMES // often]
        steady = [least_limit(*pair) == LIMITS[0] for pair in pairwise(frames)]
        for crf in (18, 23, 28):
            shown = decoded(encoded(frames, often, crf))
            for k in range(1, len(shown)):
                is_repeat = k % often != 0
                if is_repeat or not steady[k // often - 1]:
                    yield is_repeat, least_limit(shown[k - 1], shown[k])


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))  # examples as they are
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path) -> None:
    print(f"the limit in use is {scenes.REPEAT_CHANGE:g}\n")
    print("| clips | repeats, others | " + " | ".join(f"limit {limit}" for limit in LIMITS))
    print("|---|---|" + "---|" * len(LIMITS))
    known: dict[Path, list[tuple[bool, float]]] = {}
    for name, patterns in CLIPS.items():
        paths = sorted({path for pattern in patterns for path in data.glob(f"{pattern}.mp4")})
        for path in paths:
            known[path] = known.get(path) or list(pairs(path))
        found = [pair for path in paths for pair in known[path]]
        truth = np.array([is_repeat for is_repeat, _ in found])
        changes = np.array([c for _, c in found])
        cells = []
        for limit in LIMITS:
            hits = int((truth & (changes <= limit)).sum())
            precision = hits / max(int((changes <= limit).sum()), 1)
            cells.append(f"P {precision:.3f} R {hits / truth.sum():.3f}")
        print(f"| {name} | {truth.sum()}, {(~truth).sum()} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
