"""The training loop: optimiser, schedule, averaged weights, checkpoints with exact resume.

One code path for CPU and GPU. Everything that decides the next step is in the checkpoint:
weights, their average, optimiser, step and random state.
"""

import copy
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepconv_video.errors import OptionsError, WeightsError
from sepconv_video.training.losses import LOSSES
from sepconv_video.training.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a run is: the same recipe, data and seed give the same weights on a CPU."""

    steps: int
    batch: int = 8
    synthetic: float = 0.25
    """Share of synthetic triples in a batch."""
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    """Of gradients, twice what is usual: wide networks were lost to a few large ones at 0.5."""
    ema_decay: float = 0.999
    loss: str = "laplacian"
    autocast: str = "off"
    """`off`, `fp16` or `bf16`; never bf16 on a CPU without the instructions for it."""
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate: linear warm-up, then half a cosine down to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Trainer:
    """A model in training and all that belongs to its state."""

    def __init__(self, model: nn.Module, samples: Samples, recipe: Recipe) -> None:
        """Start at step 0; `model` is on the device of `samples`."""
        self.model, self.samples, self.recipe = model, samples, recipe
        is_gpu = samples.device.type == "cuda"
        self.average = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=is_gpu,
        )
        # on a GPU it also leaves bad steps out without asking, and so waiting for, the device
        self.scaler = torch.amp.GradScaler(samples.device.type, enabled=is_gpu)
        self.step_count = 0
        self.sampling_s = 0.0
        """Time spent on samples so far, of this process; on a GPU that of launching the work."""

    def step(self) -> Tensor:
        """One optimiser step; the loss of its batch, which a GPU may still be working on."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(self.step_count)
        started = time.monotonic()
        left, middle, right = self.samples.batch(
            recipe.batch, round(recipe.batch * recipe.synthetic)
        )
        self.sampling_s += time.monotonic() - started
        measure = LOSSES[recipe.loss]
        with self._precision():
            made = self.model(left, right)
        loss = measure(made.float(), middle)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        # one bad batch shall not ruin a night's work
        if self.scaler.is_enabled() or norm.isfinite():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self._track_average()
        self.step_count += 1
        return loss.detach()

    def _precision(self) -> torch.autocast:
        kind = torch.float16 if self.recipe.autocast == "fp16" else torch.bfloat16
        enabled = self.recipe.autocast != "off"
        return torch.autocast(self.samples.device.type, dtype=kind, enabled=enabled)

    @torch.no_grad()
    def _track_average(self) -> None:
        # a young average follows quickly, or it would drag the untrained weights along
        decay = min(self.recipe.ema_decay, (1 + self.step_count) / (10 + self.step_count))
        kept: list[Tensor] = list(self.average.parameters())
        new: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(kept, new, 1 - decay)

    def save(self, path: Path) -> None:
        """Write the whole state; the old checkpoint survives a kill in the middle."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.samples.state(),
            "step": self.step_count,
            "recipe": self._settings(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def _settings(self) -> dict[str, Any]:
        return asdict(self.recipe) | {"patch": self.samples.patch}

    def restore(self, path: Path) -> dict[str, tuple[Any, Any]]:
        """Continue from a checkpoint written by `save` with the same model, by the recipe of now.

        Returns:
            What differs in the recipes: names, each with the value then and now.

        Raises:
            WeightsError: It is damaged, or of another network or kind of device.
            OptionsError: It was begun with another seed, of which nothing would come any more.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.samples.restore(state["random"])
            self.step_count, then = state["step"], state["recipe"]
        except Exception as error:  # each part fails with whatever it stumbles over first
            raise WeightsError(
                f"cannot continue from `{path}`: damaged, or of another network or kind of device",
                "use the `--model` and `--device` it was made with, or another `--run`",
            ) from error
        if then["seed"] != self.recipe.seed:
            raise OptionsError(
                f"`{path}` was begun with seed {then['seed']}, not {self.recipe.seed}",
                f"use `--seed {then['seed']}`, or another `--run`",
            )
        now = self._settings()
        return {name: (old, now[name]) for name, old in then.items() if old != now[name]}


@torch.no_grad()
def validate(model: nn.Module, clips: dict[str, Tensor], every: int) -> float:
    """PSNR in dB of restored frames, mean over clips of the mean over triples.

    Every second frame of each (T, 3, H, W) uint8 clip is restored from its neighbours; of
    those triples each `every`-th is used.
    """
    device = next(model.parameters()).device
    scores = []
    for clip in clips.values():
        values = []
        for left in range(0, len(clip) - 2, 2 * every):
            frames = clip[left : left + 3].to(device).float() / 255
            made = model(frames[0:1], frames[2:3]).clamp(0, 1)
            error = ((made[0] * 255).round() / 255 - frames[1]).square().mean()
            values.append(-10 * math.log10(max(error.item(), 1e-10)))
        scores.append(sum(values) / len(values))
    return sum(scores) / len(scores)


def train(trainer: Trainer, minutes: float, save_minutes: float, run: Path) -> Iterator[int]:
    """Train until the recipe ends or `minutes` are over, with checkpoints and a log in `run`.

    Yields:
        The step count after each checkpoint, so that the caller can validate and report.
    """
    end = time.monotonic() + minutes * 60
    checkpoint = run / "checkpoint.pt"
    while trainer.step_count < trainer.recipe.steps and time.monotonic() < end:
        started, first = time.monotonic(), trainer.step_count
        trainer.sampling_s = 0.0
        losses = [trainer.step()]
        pause = min(end, started + save_minutes * 60)
        while trainer.step_count < trainer.recipe.steps and time.monotonic() < pause:
            losses.append(trainer.step())
        loss = torch.stack(losses).mean().item()  # waits for a GPU
        seconds = time.monotonic() - started
        rate = (trainer.step_count - first) * trainer.recipe.batch / seconds
        shares = {"samples_per_s": f"{rate:.1f}", "sampling": f"{trainer.sampling_s / seconds:.3f}"}
        _log(run / "log.csv", trainer, loss, shares)
        trainer.save(checkpoint)  # last: what has a checkpoint has its line in the log
        yield trainer.step_count


def _log(path: Path, trainer: Trainer, loss: float, speed: dict[str, str]) -> None:
    row = {
        "step": trainer.step_count,
        "loss": f"{loss:.5f}",
        "learning_rate": f"{trainer.recipe.rate_at(trainer.step_count):.2e}",
        **speed,
    }
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
