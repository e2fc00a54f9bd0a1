#!/usr/bin/env python3
"""Measure models on frames whose truth is known: PSNR and SSIM, beside plain averaging.

    python scripts/evaluate.py ../shared/data/val --model fast --model fine --minterpolate
    python scripts/evaluate.py path/to/middlebury --model weights.safetensors --json scores.json

FOLDER holds clips, of which every second frame is removed and made again, or, at any depth, folders
of triples: `frame10 frame10i11 frame11` (Middlebury, whose true frames may lie in `other-gt-interp`
beside `other-data`) or `im1 im2 im3` (Vimeo-90k). Of a clip our
networks see what the program shows them: besides the two frames the one before and the one after,
where there are any (`--alone`: only the two); but whole frames, with any black bars, and no cut
is looked for.
Estimates are clipped to [0, 1], times 255 and rounded (`--truncate`: cut off, as the
reference code of 2017 does). A clip's score is the mean over its triples, the total the mean
over clips. SSIM is scikit-image's, in colour, with its default window of 7x7. The table is
Markdown, for the model card. What cannot be measured is named and left out, and the exit code is 1.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import repeat, tee
from pathlib import Path

import av
import click
import numpy as np
import torch
from av.filter import Graph
from torch import Tensor

from sepconv_video import color
from sepconv_video.devices import choose_device
from sepconv_video.display import one_line, say, show_error
from sepconv_video.errors import OptionsError, SepConvVideoError, VideoError
from sepconv_video.models.bending import Bending, Known
from sepconv_video.video import Reader, read_picture, write_picture
from sepconv_video.weights import load_model

try:
    from skimage.metrics import structural_similarity
except ModuleNotFoundError:
    sys.exit('error: scikit-image is missing\n\nhint: pip install "sepconv-video[train]"')

TRIPLES = (("frame10", "frame10i11", "frame11"), ("im1", "im2", "im3"))
APART = "other-gt-interp"
"""Folder of the true frames beside that of the others, as Middlebury's archives are unpacked."""
BASELINES = ("average", "minterpolate")
LEAST = 16
"""Pixels a side: FFmpeg's filter needs so many, SSIM 7."""
CLIP_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v"}
MINTERPOLATE = "fps=50:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:me=epzs:vsbmc=1:mb_size=8:scd=none"
"""The setting of FFmpeg's filter that is best on the train clips; they are fed at 25 per second."""


def clip_triples(path: Path) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Frames 0 1 2, 2 3 4 ... of a clip, each (1, 3, H, W) RGB in [0, 1]."""
    with Reader(path) as reader:
        kept: list[Tensor] = []
        for frame in reader.frames():
            planes = color.upload([frame], "cpu")
            kept.append(color.to_rgb(planes, reader.info).clamp(0, 1))
            if len(kept) == 3:
                yield kept[0], kept[1], kept[2]
                kept = kept[2:]
        if reader.damage:
            raise VideoError(f"`{path}` is damaged: {reader.damage}")


def picture_triples(folder: Path) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The triple of one folder: of the set of names of which it holds the most."""
    truths = folder.absolute().parents[1] / APART / folder.name
    files = sorted([*folder.iterdir(), *(truths.iterdir() if truths.is_dir() else ())])
    names = max(TRIPLES, key=lambda names: len({path.stem for path in files}.intersection(names)))
    pictures = [read_picture(the_one(name, files)) for name in names]
    first, middle, last = (
        torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 for picture in pictures
    )
    yield first, middle, last


def the_one(name: str, files: list[Path]) -> Path:
    """The one file of a name.

    Raises:
        VideoError: There is none, or more.
    """
    found = [path for path in files if path.stem == name]
    if len(found) != 1:
        told = ", ".join(f"`{path.name}`" for path in found)
        raise VideoError(f"it needs one picture `{name}`, found: {told or 'none'}")
    return found[0]


def triples_of(path: Path) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The triples of a clip or a folder.

    Raises:
        VideoError: There are none, they cannot be read, differ in size or are too small.
    """
    triple = None
    for triple in picture_triples(path) if path.is_dir() else clip_triples(path):
        sizes = [(frame.shape[3], frame.shape[2]) for frame in triple]
        if len(set(sizes)) > 1 or min(sizes[0]) < LEAST:
            told = ", ".join(f"{width}x{height}" for width, height in sizes)
            raise VideoError(
                f"its pictures must be of one size, at least {LEAST}x{LEAST}: they are {told}"
            )
        yield triple
    if triple is None:
        raise VideoError("it has fewer than three frames")


def items(folder: Path) -> dict[str, Path]:
    """Clips, and folders of triples, by name; with suffixes where two would be called alike."""
    parts = {name for names in TRIPLES for name in names}
    places = [
        Path(place)
        for place, _, files in os.walk(folder, followlinks=True)
        if parts.intersection(Path(file).stem for file in files)
        and Path(place) != folder
        and Path(place).parent.name != APART
    ]
    clips = [path for path in folder.iterdir() if path.suffix.lower() in CLIP_SUFFIXES]
    found = sorted([*places, *(path for path in clips if path.is_file())])
    whole = [str(path.relative_to(folder)) for path in found]
    short = [path.stem if path in clips else name for path, name in zip(found, whole, strict=True)]
    return dict(zip(distinct(short, whole), found, strict=True))


def to_bytes(frame: Tensor, *, truncate: bool) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] to (H, W, 3) uint8."""
    scaled = frame[0].float().clamp(0, 1).permute(1, 2, 0) * 255
    return (scaled if truncate else (scaled + 0.5).floor()).to(torch.uint8).cpu().numpy()


def psnr(made: np.ndarray, true: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of two uint8 pictures; 100 where they are equal."""
    error = np.mean((made.astype(np.float64) - true) ** 2)
    return 10 * math.log10(255**2 / error) if error else 100.0


def measure(made: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM."""
    return psnr(made, true), float(structural_similarity(made, true, channel_axis=2))


def minterpolated(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames half way between neighbours, as FFmpeg's filter makes them; (H, W, 3) uint8.

    The filter knows no RGB. Green, blue and red go in as if they were Y, U and V, so that no
    colour is converted (on the train clips it gains 0.1 dB over the clip's own 4:2:0). It gives
    what lies between two frames once it has one more, so the last is pushed twice; more copies, or
    some before the first, change nothing.
    """
    graph, k, last = None, 0, None
    for k, last in enumerate(frames):
        graph = graph or minterpolate_graph(*last.shape[:2])
        yield from middles(graph, last, k)
    if graph is not None:
        yield from middles(graph, last, k + 1)


def minterpolate_graph(height: int, width: int) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=width, height=height, format="yuv444p", time_base=Fraction(1, 50)
    )
    chain = (source, graph.add("minterpolate", MINTERPOLATE), graph.add("buffersink"))
    graph.link_nodes(*chain).configure()
    return graph


def middles(graph: Graph, frame: np.ndarray, k: int) -> Iterator[np.ndarray]:
    """Push the k-th frame and give the new ones that come out, between those of even times."""
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1)[[1, 2, 0]])
    picture = av.VideoFrame.from_ndarray(planes, "yuv444p")
    picture.pts, picture.time_base = 2 * k, Fraction(1, 50)
    graph.vpush(picture)
    while True:
        try:
            out = graph.vpull()
        except BlockingIOError:  # it waits for the next
            return
        if out.pts % 2:
            yield out.to_ndarray()[[2, 0, 1]].transpose(1, 2, 0)


def kept(triples: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[np.ndarray]:
    """A clip without its middle frames."""
    for k, (left, _, right) in enumerate(triples):
        if k == 0:
            yield to_bytes(left, truncate=False)
        yield to_bytes(right, truncate=False)


def made_by(
    model, triples: Iterable[tuple[Tensor, Tensor, Tensor]], device: torch.device, *, alone: bool
) -> Iterator[Tensor]:
    """A model's middle frames; the triples before and after tell it more."""
    pending, earlier, own = None, None, None
    for left, _, right in triples:
        pair = left.to(device), right.to(device)
        if alone or not isinstance(model, Bending):
            yield model(*pair)
            continue
        later = model.look(*pair)
        if pending is not None:
            bend = None if earlier is None else model.bend(earlier, own, later)
            yield model(*pending, known=Known(own, bend))
        pending, earlier, own = pair, own, later
    if pending is not None:
        yield model(*pending, known=Known(own))


def estimates(
    models, triples, device, *, truncate, minterpolate, alone
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The true middle frame of each triple, and each method's estimate of it."""
    # a copy for each who reads, as one that nobody reads would keep all frames
    triples, *copies = tee(triples, 1 + len(models) + minterpolate)
    others = minterpolated(kept(copies.pop())) if minterpolate else repeat(None)
    ours = [
        made_by(model, copy, device, alone=alone)
        for model, copy in zip(models.values(), copies, strict=True)
    ]
    for (left, middle, right), other in zip(triples, others, strict=minterpolate):
        made = {"average": to_bytes((left + right) / 2, truncate=truncate)}
        if other is not None:
            made["minterpolate"] = other
        for name, frames in zip(models, ours, strict=True):
            made[name] = to_bytes(next(frames), truncate=truncate)
        yield to_bytes(middle, truncate=False), made


def scored(found, models, device, *, save, **how) -> Iterator[tuple[str, dict[str, float]]]:
    """The score of each item; what cannot be measured is named and left out."""
    for name, path in found.items():
        picture = None if save is None else save / f"{name}.png"
        make_writable(picture and picture.parent)
        try:
            score = score_item(models, triples_of(path), device, save=picture, **how)
        except SepConvVideoError as error:
            say(f"left out `{one_line(name)}`: {one_line(error.message)}")
        else:
            yield name, score


@torch.inference_mode()
def score_item(models, triples, device, *, save, **how) -> dict[str, float]:
    """Mean PSNR and SSIM of each method over the triples; the worst picture goes to `save`."""
    rows: list[dict[str, float]] = []
    first, worst = next(iter(models)), math.inf
    for true, made in estimates(models, triples, device, **how):
        rows.append({})
        for method, picture in made.items():
            score = measure(picture, true)
            rows[-1][f"{method}_psnr"], rows[-1][f"{method}_ssim"] = score
        if save is not None and rows[-1][f"{first}_psnr"] < worst:
            worst = rows[-1][f"{first}_psnr"]
            # from left to right: average, minterpolate where wanted, each model, truth
            write_picture(save, np.concatenate((*made.values(), true), axis=1))
    return mean(rows) | {"triples": len(rows)}


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def header(methods: list[str]) -> str:
    """The first two lines of the table."""
    names = "".join(f" {method:15} |" for method in methods)
    return f"| {'clip':24} |   n |{names}\n|---|---|{'---|' * len(methods)}"


def line(name: str, score: dict[str, float], methods: list[str]) -> str:
    """One row of the table."""
    figures = "".join(f" {score[f'{m}_psnr']:6.2f} / {score[f'{m}_ssim']:.4f} |" for m in methods)
    return f"| {name:24} | {score['triples']:3.0f} |{figures}"


def named(models: Iterable[str]) -> dict[str, str]:
    """The text of each model by its name in the table."""
    given = list(dict.fromkeys(models))
    if taken := set(BASELINES).intersection(given):
        raise click.ClickException(f"a baseline has the name of `--model {min(taken)}`: rename it")
    names = distinct([*BASELINES, *(Path(model).stem for model in given)], [*BASELINES, *given])
    return dict(zip(names[len(BASELINES) :], given, strict=True))


def make_writable(*folders: Path | None) -> None:
    """Make folders to write in where they are missing, before hours of work and not after."""
    for folder in filter(None, folders):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise click.ClickException(f"cannot write in `{folder}`: name another folder")


def distinct(short: list[str], whole: list[str]) -> list[str]:
    """The short names, unless two of them are alike."""
    return short if len(set(short)) == len(short) else whole


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))  # examples as they are
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--model",
    "models",
    multiple=True,
    default=["fast"],
    show_default=True,
    metavar="NAME|FILE",
    help="May be given more than once.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--truncate", is_flag=True, help="Truncate to 8 bits instead of rounding.")
@click.option("--minterpolate", is_flag=True, help="Measure FFmpeg's filter too.")
@click.option("--alone", is_flag=True, help="Give our networks the two frames only.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also write here.",
)  # fmt: skip
@click.option(
    "--save", type=click.Path(path_type=Path, file_okay=False, writable=True),
    help="Folder for the worst pictures.",
)  # fmt: skip
def main(*, folder, models, device, truncate, minterpolate, alone, json_path, save) -> None:
    make_writable(save, json_path and json_path.parent)
    try:
        where = choose_device(device)
        networks = {name: load_model(model, where) for name, model in named(models).items()}
    except SepConvVideoError as error:
        show_error(error)
        sys.exit(2 if isinstance(error, OptionsError) else 1)
    methods = ["average", *(["minterpolate"] if minterpolate else []), *networks]
    how = {"truncate": truncate, "minterpolate": minterpolate, "alone": alone}
    scores: dict[str, dict[str, float]] = {}
    found = items(folder)
    print(header(methods), flush=True)
    for name, score in scored(found, networks, where, save=save, **how):
        scores[name] = score
        print(line(f"`{name}`", score, methods), flush=True)
    if not scores:
        raise click.ClickException(f"`{folder}` holds no clips or triples that can be measured")
    total = mean(list(scores.values()))
    total["triples"] = sum(score["triples"] for score in scores.values())
    print(line("**mean**", total, methods))
    if json_path is not None:
        report = {"methods": methods, "items": scores, "mean": total}
        json_path.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(len(scores) < len(found))


if __name__ == "__main__":
    main()
