#!/usr/bin/env python3
"""Train one of our networks; stop and resume at any time, on a CPU or a GPU.

    python scripts/train.py --model fast --steps 20000 --minutes 60 --run runs/fast

Run the same command again to continue. `weights.safetensors` in the run's folder holds the
averaged weights in fp16, as they are shipped.
"""

import csv
import math
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sepconv_video.models import NETWORKS
from sepconv_video.training.clips import read_folder, read_picture
from sepconv_video.training.loop import Recipe, Trainer, train, validate
from sepconv_video.training.losses import LOSSES
from sepconv_video.training.samples import Samples
from sepconv_video.weights import LAYOUT

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@click.command(help=__doc__)
@click.option("--model", type=click.Choice(["fast", "fine"]), default="fast", show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=SHARED,
    show_default=True,
    help="Folder with train/*.mp4, val/*.mp4 and images/*.jpg.",
)
@click.option("--run", type=click.Path(path_type=Path), default=Path("runs/fast"))
@click.option("--steps", default=20000, show_default=True, help="Length of the whole schedule.")
@click.option("--minutes", default=1e9, help="Stop this call after so long; the next continues.")
@click.option("--save-minutes", default=5.0, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--patch", default=128, show_default=True)
@click.option("--rate", default=4e-4, show_default=True, help="Peak learning rate.")
@click.option("--loss", type=click.Choice(sorted(LOSSES)), default="laplacian")
@click.option("--autocast", type=click.Choice(["off", "fp16", "bf16"]), default="off")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--seed", default=0)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True),
    help="Weights, or a checkpoint whose averaged ones, a fresh run starts from.",
)
@click.option(
    "--validate-every",
    default=4,
    show_default=True,
    help="Use each n-th triple of the validation clips; 0 leaves validation out.",
)
def main(  # the options above
    *, model, data, run, steps, minutes, save_minutes, batch, patch, rate, loss, autocast, device,
    seed, start, validate_every,
) -> None:  # fmt: skip
    """Set a run up, or continue it, and train until the time or the schedule ends."""
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = NETWORKS[model]().to(device, memory_format=LAYOUT)
    if start is not None:
        load_start(network, start)
    clips = list(read_folder(data / "train").values())
    pictures = [read_picture(path) for path in sorted((data / "images").glob("*.jpg"))]
    samples = Samples(clips, pictures, patch, torch.device(device), seed)
    recipe = Recipe(
        steps=steps, batch=batch, learning_rate=rate, loss=loss, autocast=autocast, seed=seed
    )
    trainer = Trainer(network, samples, recipe)
    if (run / "checkpoint.pt").exists():
        trainer.restore(run / "checkpoint.pt")
        print(f"continuing {run} at step {trainer.step_count}", flush=True)
    held_back = read_folder(data / "val") if validate_every else {}
    if trainer.step_count and trainer.step_count not in scores(run):  # killed before it was judged
        judge(trainer, held_back, validate_every, run)
    for _ in train(trainer, minutes, save_minutes, run):
        judge(trainer, held_back, validate_every, run)


def judge(trainer: Trainer, held_back: dict[str, Tensor], every: int, run: Path) -> None:
    """Validate the averaged weights, export them if none were better, and report."""
    psnr = validate(trainer.average, held_back, every) if held_back else math.nan
    known = [score for score in scores(run).values() if not math.isnan(score)]
    # a lost run, whose own score is NaN, leaves its best
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


def load_start(network: torch.nn.Module, start: Path) -> None:
    """Start from other weights."""
    if start.suffix == ".safetensors":
        state = load_file(start)
    else:
        state = torch.load(start, map_location="cpu", weights_only=True)["average"]
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()  # of hundreds
        raise click.UsageError(f"`{start}` is of another network: {first}") from error


def report(run: Path, step: int, psnr: float) -> None:
    """Print the newest figures and redraw the curve."""
    with (run / "psnr.csv").open("a", newline="") as file:
        csv.writer(file).writerow([step, f"{psnr:.3f}"])
    last = list(csv.DictReader((run / "log.csv").read_text().splitlines()))[-1]
    print(
        f"step {step}: loss {last['loss']}, {last['samples_per_s']} samples/s, "
        f"{float(last['sampling']):.0%} of the time for samples, validation {psnr:.2f} dB",
        flush=True,
    )
    plot(run)


def plot(run: Path) -> None:
    """Draw loss and validation PSNR over steps into `curve.png`."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only needed here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    losses = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot([int(row["step"]) for row in losses], [float(row["loss"]) for row in losses])
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.plot(*zip(*scores(run).items(), strict=True))
    right.set(xlabel="step", ylabel="validation PSNR / dB")
    figure.savefig(run / "curve.png")
    plt.close(figure)


if __name__ == "__main__":
    main()
