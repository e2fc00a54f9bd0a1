#!/usr/bin/env python3
"""Train one of our networks; stop and resume at any time, on a CPU or a GPU.

    python scripts/train.py --model fast --steps 20000 --minutes 60 --run runs/fast

Run the same command again to continue. `weights.safetensors` in the run's folder holds the
averaged weights in fp16, as they are shipped.
"""

import csv
import math
import sys
from pathlib import Path

try:  # at once, and not when the first curve is drawn
    import cv2  # noqa: F401 - of sepconv_video.training
    import matplotlib as mpl
except ImportError as error:
    sys.exit(f'error: {error}, which training needs: run `pip install ".[train]"`')

import click
import torch
from safetensors.torch import save_file
from torch import Tensor

from sepconv_video.devices import choose_device
from sepconv_video.display import say, show_error
from sepconv_video.errors import OptionsError, SepConvVideoError
from sepconv_video.models import NETWORKS
from sepconv_video.training.clips import read_folder, read_picture
from sepconv_video.training.loop import Recipe, Trainer, train, validate
from sepconv_video.training.losses import LOSSES
from sepconv_video.training.samples import Samples
from sepconv_video.weights import LAYOUT, load_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@click.command(
    help=__doc__.replace("\n\n    ", "\n\n\b\n    "), context_settings={"show_default": True}
)
@click.option("--model", type=click.Choice(["fast", "fine"]), default="fast")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=SHARED,
    help="Folder with train/*.mp4, val/*.mp4 and images/*.jpg.",
)
@click.option("--run", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/fast"))
@click.option("--steps", type=click.IntRange(1), default=20000, help="Length of the schedule.")
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    default=math.inf,
    help="Stop after so many minutes; the next call continues.",
)
@click.option("--save-minutes", type=click.FloatRange(0), default=5.0)
@click.option("--batch", type=click.IntRange(1), default=8)
@click.option("--patch", type=click.IntRange(16), default=128, help="Side of crops in pixels.")
@click.option(
    "--rate", "learning_rate", type=click.FloatRange(0), default=4e-4, help="Peak learning rate."
)
@click.option("--loss", type=click.Choice(sorted(LOSSES)), default="laplacian")
@click.option("--autocast", type=click.Choice(["off", "fp16", "bf16"]), default="off")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--seed", default=0)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Start a fresh run from these weights, or from the averaged ones of a checkpoint.",
)
@click.option(
    "--validate-every",
    type=click.IntRange(0),
    default=4,
    help="Use each n-th triple of the validation clips; 0 leaves validation out.",
)
def main(  # the options above
    *, model, data, run, minutes, save_minutes, patch, device, start, validate_every, **recipe
) -> None:
    """Set a run up, or continue it, and train until the time or the schedule ends."""
    try:
        trainer = prepare(model, start, data, patch, choose_device(device), Recipe(**recipe))
        held_back = validation_clips(data / "val") if validate_every else {}
        if (run / "checkpoint.pt").exists():
            changed = trainer.restore(run / "checkpoint.pt")
            told = (f", {name} {now} instead of {then}" for name, (then, now) in changed.items())
            print(f"continuing {run} at step {trainer.step_count}", *told, sep="", flush=True)
        run.mkdir(parents=True, exist_ok=True)
        if trainer.step_count and trainer.step_count not in scores(run):  # killed before it was
            judge(trainer, held_back, validate_every, run)
        for _ in train(trainer, minutes, save_minutes, run):
            judge(trainer, held_back, validate_every, run)
    except SepConvVideoError as error:
        show_error(error)
        sys.exit(2 if isinstance(error, OptionsError) else 1)


def prepare(model, start, data, patch, device, recipe) -> Trainer:
    """Build the network, from other weights if `start` names any, and read what it learns from."""
    torch.manual_seed(recipe.seed)
    network = NETWORKS[model]().to(device, memory_format=LAYOUT)
    if start is not None:
        load_start(network, start)
    clips = list(read_folder(data / "train").values())
    pictures = [read_picture(path) for path in sorted((data / "images").glob("*.jpg"))]
    return Trainer(network, Samples(clips, pictures, patch, device, recipe.seed), recipe)


def load_start(network: torch.nn.Module, start: Path) -> None:
    """Start from other weights."""
    other = load_model(start)
    if type(other) is not type(network):
        raise OptionsError(f"`{start}` holds the weights of another network", "change `--model`")
    network.load_state_dict(other.state_dict())


def validation_clips(folder: Path) -> dict[str, Tensor]:
    """Clips by name, as `read_folder` gives them, without those too short to validate with."""
    clips = read_folder(folder)
    usable = {name: clip for name, clip in clips.items() if len(clip) >= 3}
    for name in clips.keys() - usable.keys():
        say(f"`{folder / name}.mp4` is too short to validate with: it has fewer than three frames")
    if not usable:
        say(f"no clips to validate with in `{folder}`: the newest weights are exported")
    return usable


def judge(trainer: Trainer, held_back: dict[str, Tensor], every: int, run: Path) -> None:
    """Validate the averaged weights, export them if none were better, and report."""
    psnr = validate(trainer.average, held_back, every) if held_back else math.nan
    known = [score for score in scores(run).values() if not math.isnan(score)]
    # a run that diverged, with a score of NaN, keeps its best
    if not held_back or psnr >= max(known, default=-math.inf):
        state = trainer.average.state_dict()
        half = {name: value.half().contiguous() for name, value in state.items()}
        save_file(half, run / "weights.safetensors")
    report(run, trainer.step_count, psnr)


def scores(run: Path) -> dict[int, float]:
    """Validation in dB after each step that was judged; NaN without validation."""
    path = run / "psnr.csv"
    rows = csv.reader(path.read_text().splitlines()) if path.exists() else []
    return {int(step): float(psnr) for step, psnr in rows}


def report(run: Path, step: int, psnr: float) -> None:
    """Print the newest figures and redraw the curve."""
    with (run / "psnr.csv").open("a", newline="") as file:
        csv.writer(file).writerow([step, f"{psnr:.3f}"])
    log = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    last = log[-1]
    print(
        f"step {step}: loss {last['loss']}, {last['samples_per_s']} samples/s, "
        f"{float(last['sampling']):.0%} of the time for samples, validation {psnr:.2f} dB",
        flush=True,
    )
    plot(run, log)


def plot(run: Path, log: list[dict[str, str]]) -> None:
    """Draw loss and validation PSNR over steps into `curve.png`."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - slow to import, and only needed here

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot([int(row["step"]) for row in log], [float(row["loss"]) for row in log])
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.plot(*zip(*scores(run).items(), strict=True))
    right.set(xlabel="step", ylabel="validation PSNR / dB")
    figure.savefig(run / "curve.png")
    plt.close(figure)


if __name__ == "__main__":
    main()
