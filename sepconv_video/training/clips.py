"""Training material: clips and pictures held in memory, and the crops worth learning from.

Read with OpenCV, as the rented GPU machines have it and no PyAV. Everything is uint8 on the
training device, so that a GPU never waits for a disk or a decoder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.errors import VideoError

GRID = 32
"""Crops start at multiples of this many pixels; motion is measured on the same grid."""
STRIDE_SHARES = {1: 0.5, 2: 0.35, 3: 0.15}
"""How often neighbours at 1, 2 and 3 frames' distance are drawn."""


def read_clip(path: Path) -> Tensor:
    """Decode a clip to (T, 3, H, W) uint8 RGB.

    Raises:
        VideoError: OpenCV finds no frame in the file.
    """
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (decoded := capture.read())[0]:
        frames.append(cv2.cvtColor(decoded[1], cv2.COLOR_BGR2RGB))
    capture.release()
    if not frames:
        raise VideoError(f"cannot read `{path}`: OpenCV finds no frame in it", "mend or remove it")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def read_picture(path: Path) -> Tensor:
    """Decode a picture to (3, H, W) uint8 RGB.

    Raises:
        VideoError: OpenCV cannot read the file.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise VideoError(
            f"cannot read `{path}`: OpenCV knows no such picture format", "mend or remove it"
        )
    return torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).contiguous()


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All `*.mp4` of a folder by name, sorted; tensors as `read_clip` returns them."""
    return {path.stem: read_clip(path) for path in sorted(folder.glob("*.mp4"))}


@dataclass(frozen=True, slots=True)
class CropTable:
    """Every crop that may be drawn, and how often: columns are parallel."""

    places: Tensor
    """(M, 5) int64: clip, middle frame, stride, top, left."""
    weights: Tensor
    """(M,) float32, not normalised."""


def tabulate_crops(clips: Iterable[Tensor], size: int) -> CropTable:
    """List all crops of `size` pixels in all clips, weighted by how hard they are.

    Hard means: the average of the neighbours misses the middle frame. Triples with a cut, a
    duplicate, a flash or no motion at all are left out.

    Raises:
        VideoError: Nothing is left.
    """
    shares: dict[int, list[tuple[Tensor, Tensor]]] = {stride: [] for stride in STRIDE_SHARES}
    for number, clip in enumerate(clips):
        for stride, rows in shares.items():
            rows.extend(_clip_crops(number, clip, stride, size))
    places, weights = [], []
    for stride, rows in shares.items():
        if rows:
            weight = torch.cat([w for _, w in rows])
            places.append(torch.cat([p for p, _ in rows]))
            weights.append(weight * (STRIDE_SHARES[stride] / weight.sum().clamp(min=1e-9)))
    if not any(map(len, places)):
        raise VideoError(
            f"nothing to train on: no clip has {size}x{size} pixels that move through three frames",
            "put other clips into `train/`, or use a smaller `--patch`",
        )
    return CropTable(torch.cat(places), torch.cat(weights))


def _clip_crops(
    number: int, clip: Tensor, stride: int, size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    if min(clip.shape[-2:]) < size:
        return
    # a grey thumbnail at a quarter of the size is enough to measure motion
    thumbs = F.avg_pool2d(clip.float().mean(1, keepdim=True), 4)
    for middle in range(stride, len(clip) - stride):
        triple = thumbs[middle - stride], thumbs[middle], thumbs[middle + stride]
        if not is_usable(*triple):
            continue
        miss = (triple[1] - (triple[0] + triple[2]) / 2).abs()[None]
        hardness = F.avg_pool2d(miss, size // 4, GRID // 4)[0, 0]
        # the cap and the root keep the hardest crops from crowding out the common ones
        weight = (hardness.clamp(max=12).flatten() - 0.3).clamp(min=0).sqrt()
        tops, lefts = torch.meshgrid(
            torch.arange(hardness.shape[0]) * GRID,
            torch.arange(hardness.shape[1]) * GRID,
            indexing="ij",
        )
        where = torch.stack((tops.flatten(), lefts.flatten()), 1)
        which = torch.tensor([number, middle, stride]).expand(len(where), 3)
        keep = weight > 0
        yield torch.cat((which, where), 1)[keep], weight[keep]


def is_usable(left: Tensor, middle: Tensor, right: Tensor) -> bool:
    """Whether three grey frames (any shape, 0..255) show one motion without cut or flash."""
    first = (left - middle).abs().mean().item()
    second = (middle - right).abs().mean().item()
    if max(first, second) < 0.3:
        return False
    if max(first, second) > 2.5 * min(first, second):  # a cut on one side, or a duplicate
        return False
    flash = abs((middle.mean() - (left.mean() + right.mean()) / 2).item())
    return flash < 4
