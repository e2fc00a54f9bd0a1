#!/usr/bin/env python3
"""Measure a model on frames whose truth is known: PSNR and SSIM, beside plain blending.

    python scripts/evaluate.py ../shared/data/val
    python scripts/evaluate.py path/to/middlebury --model weights.safetensors --json scores.json

FOLDER holds clips, of which every second frame is removed and made again, or sub-folders of
triples: `frame10 frame10i11 frame11` (Middlebury) or `im1 im2 im3` (Vimeo-90k).
Estimates are clipped to [0, 1], times 255 and rounded (`--truncate`: cut off, as the
reference code of 2017 does). A clip's score is the mean over its triples, the total the mean
over clips. SSIM is scikit-image's, in colour, with its default window of 7x7.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from sepconv_video import color
from sepconv_video.engine import choose_device
from sepconv_video.video import Reader, read_picture, write_picture
from sepconv_video.weights import load_model

TRIPLES = (("frame10", "frame10i11", "frame11"), ("im1", "im2", "im3"))
CLIP_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v"}
METHODS = ("blend", "ours")


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


def picture_triples(folder: Path) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The triple of one sub-folder, if there is one under a known set of names."""
    for names in TRIPLES:
        found = [next(iter(sorted(folder.glob(f"{name}.*"))), None) for name in names]
        if all(found):
            frames = [torch.from_numpy(read_picture(path)) for path in found if path]
            first, middle, last = (f.permute(2, 0, 1)[None].float() / 255 for f in frames)
            yield first, middle, last
            return


def items(folder: Path) -> Iterator[tuple[str, Iterator[tuple[Tensor, Tensor, Tensor]]]]:
    """Everything in a folder that can be measured, by name."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield path.name, picture_triples(path)
        elif path.suffix.lower() in CLIP_SUFFIXES:
            yield path.stem, clip_triples(path)


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


@torch.inference_mode()
def score_item(model, triples, device, *, truncate, save) -> dict[str, float] | None:
    """Mean PSNR and SSIM of each method over the triples; the worst picture goes to `save`."""
    rows: list[list[float]] = []
    worst = math.inf
    for left, middle, right in triples:
        true = to_bytes(middle, truncate=False)
        blended = to_bytes((left + right) / 2, truncate=truncate)
        made = to_bytes(model(left.to(device), right.to(device)), truncate=truncate)
        rows.append([*measure(blended, true), *measure(made, true)])
        if save is not None and rows[-1][2] < worst:
            worst = rows[-1][2]
            # from left to right: blend, ours, truth
            write_picture(save, np.concatenate((blended, made, true), axis=1))
    if not rows:
        return None
    means = np.mean(rows, axis=0).tolist()
    keys = [f"{method}_{metric}" for method in METHODS for metric in ("psnr", "ssim")]
    return dict(zip(keys, means, strict=True)) | {"triples": len(rows)}


def line(name: str, score: dict[str, float]) -> str:
    """One row of the table."""
    gain = score["ours_psnr"] - score["blend_psnr"]
    figures = "   ".join(f"{score[f'{m}_psnr']:6.2f} {score[f'{m}_ssim']:6.4f}" for m in METHODS)
    return f"{name:28} {score['triples']:4.0f}   {figures}   {gain:+6.2f}"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", default="fast", show_default=True, metavar="NAME|FILE")
@click.option("--device", default="auto", show_default=True)
@click.option("--truncate", is_flag=True, help="Cut off instead of rounding to 8 bits.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write here.")
@click.option("--save", type=click.Path(path_type=Path), help="Folder for the worst pictures.")
def main(folder, model, device, truncate, json_path, save) -> None:
    where = choose_device(device)
    network = load_model(model, where)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, float]] = {}
    print(
        f"{'':28}   n      blend           {model}            gain\n"
        f"{'':28}         PSNR   SSIM     PSNR   SSIM       dB",
        flush=True,
    )
    for name, triples in items(folder):
        picture = None if save is None else save / f"{name}.png"
        score = score_item(network, triples, where, truncate=truncate, save=picture)
        if score is not None:
            scores[name] = score
            print(line(name, score), flush=True)
    if not scores:
        raise click.ClickException(f"`{folder}` holds neither clips nor triples")
    keys = [key for key in next(iter(scores.values())) if key != "triples"]
    total = {key: float(np.mean([score[key] for score in scores.values()])) for key in keys}
    total["triples"] = sum(score["triples"] for score in scores.values())
    print(line("mean", total))
    if json_path is not None:
        report = {"model": model, "items": scores, "mean": total}
        json_path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
