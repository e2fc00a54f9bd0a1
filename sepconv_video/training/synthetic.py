"""Synthetic triples: textured layers with soft masks, each with its own exact motion.

Real clips rarely move far, and their true motion is unknown; here occlusion and motion of up
to 25 pixels per half step come for free. Everything runs on the device of the textures.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LAYERS = 3
"""Moving layers in front of the background."""
REACH = 25.0
"""Largest translation in pixels per half step."""
SHUTTER = 0.3
"""Longest exposure, in half steps: its motion blurs; most frames are sharp."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Velocity per half step, each (N,): an affine flow with its centre in the patch's."""

    x: Tensor
    y: Tensor
    rotation: Tensor
    zoom: Tensor
    shear: Tensor


def send(numbers: Tensor, device: torch.device) -> Tensor:
    """Send them to the device without waiting there for the step before."""
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def layered_triples(
    textures: Tensor,
    count: int,
    patch: int,
    generator: torch.Generator,
    host_generator: torch.Generator,
) -> Tensor:
    """Render `count` triples.

    Args:
        textures: (M, 3, S, S) uint8, S about twice the patch.
        count: Number of triples.
        patch: Side of the frames in pixels.
        generator: Source of randomness on the textures' device.
        host_generator: The same on the CPU, for what decides what is launched.

    Returns:
        (count, 3 frames, 3, patch, patch) in [0, 1].
    """
    frames: list[Tensor] = []
    is_blurred = torch.rand(count, generator=host_generator) < 0.3
    # three moments of each exposure; of none where all is sharp
    moments = torch.tensor([[-0.5], [0.0], [0.5]] if is_blurred.any() else [[0.0]])
    shutter = SHUTTER * _uniform((count,), generator)
    exposure = shutter * send(moments * is_blurred, textures.device)
    for layer in range(1 + LAYERS):
        pick = torch.randint(len(textures), (count,), generator=generator, device=textures.device)
        content = textures[pick].float() / 255
        if layer:
            content = torch.cat((content, _mask(content, generator, host_generator)), 1)
        motion = _random_motion(count, generator)
        offset = (_uniform((2, count), generator) - 0.5) * patch * 0.5
        moved = [_exposed(content, patch, motion, offset, time + exposure) for time in (-1, 0, 1)]
        frames = (
            [m[:, :3] for m in moved]
            if not layer
            else [
                below + m[:, 3:].clamp(0, 1) * (m[:, :3] - below)
                for below, m in zip(frames, moved, strict=True)
            ]
        )
    noise = torch.randn((count, 3, 3, patch, patch), generator=generator, device=textures.device)
    level = 0.01 * _uniform((count, 1, 1, 1, 1), generator) ** 3
    return (torch.stack(frames, 1) + noise * level).clamp(0, 1)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _random_motion(count: int, generator: torch.Generator) -> Motion:
    # squaring favours small motion, as in real film, without forgetting the large
    speed = REACH * _uniform((count,), generator) ** 2
    angle = _uniform((count,), generator) * (2 * torch.pi)
    deforms = (_uniform((count,), generator) < 0.7).float()
    return Motion(
        x=speed * angle.cos(),
        y=speed * angle.sin(),
        rotation=_normal((count,), generator) * 0.03 * deforms,
        zoom=_normal((count,), generator) * 0.03 * deforms,
        shear=_normal((count,), generator) * 0.015 * deforms,
    )


def _mask(content: Tensor, generator: torch.Generator, host_generator: torch.Generator) -> Tensor:
    """(N, 1, S, S) in [0, 1]: smooth random blobs, mostly with hard edges; 40 % empty."""
    count, side = content.shape[0], content.shape[-1]
    cells = 3 + 2 * int(torch.randint(4, (1,), generator=host_generator))
    blobs = F.interpolate(
        _normal((count, 1, cells, cells), generator), (side, side), mode="bicubic"
    )
    threshold = _uniform((count, 1, 1, 1), generator) * 1.2 - 0.1
    is_soft = (_uniform((count, 1, 1, 1), generator) < 0.3).float()
    softness = 0.02 + 0.1 * _uniform((count, 1, 1, 1), generator) * is_soft
    shown = (_uniform((count, 1, 1, 1), generator) < 0.6).float()
    return torch.sigmoid((blobs - threshold) / softness) * shown


def _exposed(content: Tensor, patch: int, motion: Motion, offset: Tensor, times: Tensor) -> Tensor:
    """The mean of what `_render` makes at several times (M, N)."""
    return torch.stack([_render(content, patch, motion, offset, time) for time in times]).mean(0)


def _render(content: Tensor, patch: int, motion: Motion, offset: Tensor, time: Tensor) -> Tensor:
    """Sample the layer (N, C, S, S) where it is at `time` (N,), -1 to 1: (N, C, patch, patch)."""
    axis = torch.arange(patch, device=content.device) - patch / 2 + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = (motion.rotation * time)[:, None, None]
    scale = torch.exp(motion.zoom * time)[:, None, None]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shear = (motion.shear * time)[:, None, None]
    across = x * cos - y * sin + shear * y + (motion.x * time + offset[0])[:, None, None]
    down = x * sin + y * cos + (motion.y * time + offset[1])[:, None, None]
    grid = torch.stack((across, down), -1) / (content.shape[-1] / 2)
    return F.grid_sample(
        content, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
