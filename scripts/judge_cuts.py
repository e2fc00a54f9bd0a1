#!/usr/bin/env python3
"""Compare detectors of cuts on a labelled set (see cut_set.py): ours, FFmpeg's, PySceneDetect's.

    python scripts/judge_cuts.py ../shared/data

PySceneDetect is no dependency of the project. Without it its rows are left out:

    pip install --no-deps --target /tmp/scenedetect scenedetect click platformdirs tqdm
    PYTHONPATH=/tmp/scenedetect python scripts/judge_cuts.py ../shared/data

Every detector runs at its default and at the best of some settings, chosen by F1 on `train`;
its numbers are those on `val`. A cut counts as found at its exact frame only. Prints Markdown.
"""

import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import click
import cv2
import numpy as np
from av.filter import Graph
from cut_set import SIZE, Sequence, labelled

from sepconv_video.frames import Frame, Relation
from sepconv_video.scenes import relations

try:
    from scenedetect import FrameTimecode, detectors
except ModuleNotFoundError:
    detectors = None
    print("PySceneDetect IS MISSING, its rows are left out: see the head of this file",
          file=sys.stderr)  # fmt: skip

Detector = Callable[[Sequence], set[int]]
OURS = "ours"
SHORTEST = (1, 4)
"""Least frames of a scene that PySceneDetect is tried with, besides its default of 15."""
SETTINGS = {
    "ContentDetector": ("threshold", (15.0, 20.0, 27.0, 35.0, 45.0)),
    "AdaptiveDetector": ("adaptive_threshold", (2.0, 3.0, 4.0, 6.0)),
    "HistogramDetector": ("threshold", (0.1, 0.2, 0.3, 0.45)),
    "HashDetector": ("threshold", (0.2, 0.28, 0.35, 0.42)),
    "ThresholdDetector": ("threshold", (12,)),
}
SCDET_THRESHOLDS = (4.0, 6.0, 8.0, 10.0, 13.0, 17.0, 22.0)


@dataclass
class Tally:
    """What a detector has found, by kind of sequence."""

    hits: Counter = field(default_factory=Counter)
    missed: Counter = field(default_factory=Counter)
    false: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def add(self, sequence: Sequence, found: set[int], seconds: float) -> None:
        """Count what was found in a sequence, in so much time."""
        cuts = set(sequence.cuts)
        self.hits[sequence.kind] += len(cuts & found)
        self.missed[sequence.kind] += len(cuts - found)
        self.false[sequence.kind] += len(found - cuts)
        self.seconds.append(seconds / len(sequence.frames))

    def scores(self) -> tuple[float, float, float]:
        """F1, precision, recall; jumps in time count neither way."""
        hits, missed, false = (
            sum(n for kind, n in counts.items() if kind != "jump")
            for counts in (self.hits, self.missed, self.false)
        )
        return (
            2 * hits / max(2 * hits + missed + false, 1),
            hits / max(hits + false, 1),
            hits / max(hits + missed, 1),
        )


def frames_of(sequence: Sequence) -> Iterator[Frame]:
    for k, planes in enumerate(sequence.planes()):
        yield Frame(index=k, pts=k, duration=1, planes=planes)


def found_by_us(sequence: Sequence) -> set[int]:
    judged = relations(frames_of(sequence), sequence.bits)
    return {frame.index for frame, verdict in judged if verdict is Relation.CUT}


def held_by_us(sequence: Sequence) -> set[int]:
    judged = relations(frames_of(sequence), sequence.bits)
    return {f.index for f, verdict in judged if verdict in (Relation.CUT, Relation.FLASH)}


def scdet(threshold: float) -> Detector:
    def detect(sequence: Sequence) -> set[int]:
        graph, found = Graph(), set()
        source = graph.add_buffer(
            width=SIZE[0], height=SIZE[1], format="yuv420p", time_base=Fraction(1, 25)
        )
        graph.link_nodes(source, graph.add("scdet", f"{threshold}"), graph.add("buffersink"))
        graph.configure()
        for k, picture in enumerate(sequence.frames):
            frame = av.VideoFrame.from_ndarray(picture, "bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            graph.push(frame)
            if "lavfi.scd.time" in graph.pull().metadata:
                found.add(k)
        return found

    return detect


def scene_detector(name: str, **settings: float) -> Detector:
    """One of PySceneDetect's, fed as it feeds itself: at half of 640x360, in linear scaling."""

    def detect(sequence: Sequence) -> set[int]:
        detector, cuts, time_code = getattr(detectors, name)(**settings), [], None
        for k, picture in enumerate(sequence.frames):
            small = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LINEAR)
            time_code = FrameTimecode(k, 25.0)
            cuts += detector.process_frame(time_code, small)
        cuts += detector.post_process(time_code)
        return {cut.frame_num for cut in cuts}

    return detect


def contestants() -> dict[tuple[str, str], Detector]:
    """Every detector in every setting, by name and setting; the default has the setting ''."""
    found: dict[tuple[str, str], Detector] = {(OURS, ""): found_by_us}
    found["ours, flashes counted too", ""] = held_by_us
    found["FFmpeg scdet", ""] = scdet(10.0)
    for threshold in SCDET_THRESHOLDS:
        found["FFmpeg scdet", f"threshold {threshold:g}"] = scdet(threshold)
    for name, (option, values) in SETTINGS.items() if detectors else ():
        found[name, ""] = scene_detector(name)
        for value, shortest in product(values, SHORTEST):
            setting = {option: value, "min_scene_len": shortest}
            label = f"{option} {value:g}, min_scene_len {shortest}"
            found[name, label] = scene_detector(name, **setting)
    return found


def judge(
    data: Path, split: str, rounds: int, todo: dict[tuple[str, str], Detector]
) -> tuple[dict[tuple[str, str], Tally], Counter]:
    """Run detectors on the set; also count its cuts by kind."""
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    cuts: Counter = Counter()
    for sequence in labelled(data, split, rounds):
        cuts[sequence.kind] += len(sequence.cuts)
        for key, detect in todo.items():
            before = time.process_time()
            found = detect(sequence)
            tallies[key].add(sequence, found, time.process_time() - before)
    return tallies, cuts


def best_of(tallies: dict[tuple[str, str], Tally]) -> dict[str, str]:
    """The setting of each detector with the best F1."""
    best: dict[str, str] = {}
    for name, setting in tallies:
        now = tallies[name, setting].scores()[0]
        if name not in best or now > tallies[name, best[name]].scores()[0]:
            best[name] = setting
    return best


def print_scores(val: dict[tuple[str, str], Tally], train: dict[tuple[str, str], Tally]) -> None:
    print("| detector | setting | F1 (train) | F1 (val) | precision | recall | CPU ms a frame |")
    print("|---|---|---|---|---|---|---|")
    for key, tally in val.items():
        f1, precision, recall = tally.scores()
        cost = 1000 * statistics.median(tally.seconds)
        print(
            f"| {key[0]} | {key[1] or 'default'} | {train[key].scores()[0]:.3f} | {f1:.3f} "
            f"| {precision:.3f} | {recall:.3f} | {cost:.1f} |"
        )


def print_kinds(val: dict[tuple[str, str], Tally], best: dict[str, str], cuts: Counter) -> None:
    """Missed of each kind of cuts, false ones in each kind of sequence, at the best setting."""
    print(f"\n| kind (cuts) | {' | '.join(best)} |\n|---|{'---|' * len(best)}")
    for kind, count in cuts.items():
        cells = [
            f"{val[key].missed[kind]} missed, {val[key].false[kind]} false"
            if count
            else f"{val[key].false[kind]} false"
            for key in best.items()
        ]
        print(f"| {kind} ({count}) | {' | '.join(cells)} |")


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))  # examples as they are
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", default=4, help="How often each kind of sequence is drawn.")
def main(data: Path, rounds: int) -> None:
    np.seterr(all="ignore")  # PySceneDetect divides by zero on plain pictures
    cv2.setNumThreads(1)
    everyone = contestants()
    train, _ = judge(data, "train", rounds, everyone)
    best = best_of(train)
    finalists = {key: d for key, d in everyone.items() if not key[1] or best[key[0]] == key[1]}
    val, cuts = judge(data, "val", rounds, finalists)
    print_scores(val, train)
    print_kinds(val, best, cuts)


if __name__ == "__main__":
    main()
