"""Batches of training triples: real crops with augmentation, mixed with synthetic ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.training.clips import CropTable, tabulate_crops
from sepconv_video.training.synthetic import layered_triples, send

ZOOMS = (1.0, 1.0, 1.0, 1.5, 2.0)
"""Crops are this much larger than the patch, then reduced: cleaner pixels, smaller motion."""


class Samples:
    """An endless source of batches (left, middle, right); the state is one random generator."""

    def __init__(
        self,
        clips: list[Tensor],
        pictures: list[Tensor],
        patch: int,
        device: torch.device,
        seed: int,
    ) -> None:
        """Take (T, 3, H, W) uint8 clips and (3, H, W) uint8 pictures, and move them to `device`."""
        self.patch, self.device = patch, device
        self.table: CropTable = tabulate_crops(clips, patch)
        self.shapes = torch.tensor([clip.shape for clip in clips])
        sizes = self.shapes.prod(1)
        self.starts = sizes.cumsum(0) - sizes
        # one after the other, so that a batch of crops is one look-up
        self.values = torch.cat([clip.flatten() for clip in clips]).to(device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.host_generator = torch.Generator().manual_seed(seed)
        self.textures = self._cut_textures(pictures + [clip[len(clip) // 2] for clip in clips])

    def _cut_textures(self, pictures: list[Tensor]) -> Tensor:
        """(M, 3, 2*patch, 2*patch) uint8 squares, four out of each picture."""
        side = 2 * self.patch
        squares = []
        for source in pictures:
            picture = _enlarge(source, side)
            for _ in range(4):
                top = self._integer(picture.shape[-2] - side + 1)
                left = self._integer(picture.shape[-1] - side + 1)
                squares.append(picture[:, top : top + side, left : left + side])
        return torch.stack(squares).to(self.device)

    def _integer(self, bound: int) -> int:
        return int(torch.randint(bound, (1,), generator=self.host_generator))

    def batch(self, count: int, synthetic: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw `count` triples, `synthetic` of them made.

        Returns:
            left, middle, right: each (count, 3, patch, patch) in [0, 1].
        """
        triples = self._real(count - synthetic)
        if synthetic:
            generators = self.generator, self.host_generator
            made = layered_triples(self.textures, synthetic, self.patch, *generators)
            triples = torch.cat((triples, made))
        triples = self._turn(triples)
        gain = 0.8 + 0.4 * torch.rand(count, generator=self.generator, device=self.device)
        triples = (triples * gain[:, None, None, None, None]).clamp(0, 1)
        left, middle, right = triples.unbind(1)
        return left, middle, right

    def _real(self, count: int) -> Tensor:
        """(count, 3 frames, 3, patch, patch) float crops in [0, 1]."""
        side = int(self.patch * ZOOMS[self._integer(len(ZOOMS))])
        rows = torch.multinomial(
            self.table.weights, count, replacement=True, generator=self.host_generator
        )
        places = self.table.places[rows]
        # small clips hold smaller crops only
        sides = self.shapes[places[:, 0], 2:].amin(1).clamp(max=side)
        crops = torch.empty(count, 3, 3, self.patch, self.patch, device=self.device)
        for size in set(sides.tolist()):
            which = (sides == size).nonzero()[:, 0]
            crops[send(which, self.device)] = self._crops(places[which], size)
        return crops / 255

    def _crops(self, places: Tensor, side: int) -> Tensor:
        """(N, 3 frames, 3, patch, patch) in 0..255: `side` pixels around places (N, 5), reduced."""
        number, middle, stride, top, left = places.T
        _, channels, height, width = self.shapes[number].T
        margin = (side - self.patch) // 2
        y = (top - margin).clamp(min=0).minimum(height - side)
        x = (left - margin).clamp(min=0).minimum(width - side)
        time = middle[:, None] + stride[:, None] * torch.arange(-1, 2)
        plane = (height * width)[:, None, None]
        frame = (
            self.starts[number][:, None, None]
            + ((time * channels[:, None])[..., None] + torch.arange(3)) * plane
        )
        corner = frame + (y * width + x)[:, None, None]
        lines = torch.arange(side) * width[:, None]
        corner, lines = send(corner, self.device), send(lines, self.device)
        columns = torch.arange(side, device=self.device)
        at = corner[..., None, None] + (lines[:, :, None] + columns)[:, None, None]
        crops = self.values[at].float()
        if side == self.patch:
            return crops
        size = (self.patch, self.patch)
        reduced = F.interpolate(crops.flatten(0, 1), size, mode="bilinear", antialias=True)
        return reduced.reshape(-1, 3, *reduced.shape[1:])

    def _turn(self, triples: Tensor) -> Tensor:
        """Reverse time, flip, turn and swap colours of (N, 3 frames, 3, patch, patch)."""
        count = len(triples)
        coins = send(torch.rand(5, count, generator=self.host_generator), self.device)
        coins = coins[..., None, None, None, None]
        for coin, axis in zip(coins, (1, 3, 4), strict=False):
            triples = torch.where(coin < 0.5, triples.flip(axis), triples)
        triples = torch.where(coins[3] < 0.5, triples.transpose(3, 4), triples)
        order = torch.rand(count, 3, generator=self.host_generator).argsort(1)
        order = send(order, self.device)
        swapped = triples.gather(2, order[:, None, :, None, None].expand_as(triples))
        return torch.where(coins[4] < 0.3, swapped, triples)

    def state(self) -> dict[str, Tensor]:
        """The random state, for an exact resume."""
        return {"device": self.generator.get_state(), "host": self.host_generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        self.generator.set_state(state["device"].cpu())
        self.host_generator.set_state(state["host"].cpu())


def _enlarge(picture: Tensor, side: int) -> Tensor:
    """Scale a uint8 picture (3, H, W) up until both sides are at least `side`."""
    height, width = picture.shape[-2:]
    scale = side / min(height, width)
    if scale <= 1:
        return picture
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    larger = F.interpolate(picture[None].float(), size, mode="bicubic")[0]
    return larger.clamp(0, 255).to(torch.uint8)
