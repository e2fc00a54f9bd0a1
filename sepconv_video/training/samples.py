"""Batches of training triples: real crops with augmentation, mixed with synthetic ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.training.clips import CropTable, tabulate_crops
from sepconv_video.training.synthetic import layered_triples

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
        self.clips = [clip.to(device) for clip in clips]
        self.generator = torch.Generator(device).manual_seed(seed)
        self.host_generator = torch.Generator().manual_seed(seed)
        self.textures = self._cut_textures(pictures)

    def _cut_textures(self, pictures: list[Tensor]) -> Tensor:
        """(M, 3, 2*patch, 2*patch) uint8 squares, four each out of pictures and clips."""
        side = 2 * self.patch
        squares = []
        for source in pictures + [clip[len(clip) // 2].cpu() for clip in self.clips]:
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
            made = layered_triples(self.textures, synthetic, self.patch, self.generator)
            triples = torch.cat((triples, made))
        coins = torch.rand(count, 5, generator=self.host_generator)
        triples = torch.stack([self._turn(t, c) for t, c in zip(triples, coins, strict=True)])
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
        places = self.table.places[rows].tolist()
        return torch.stack([self._crop(place, side) for place in places]) / 255

    def _crop(self, place: list[int], side: int) -> Tensor:
        """(3 frames, 3, patch, patch) in 0..255: `side` pixels around a place, reduced."""
        number, middle, stride, top, left = place
        clip = self.clips[number]
        height, width = clip.shape[-2:]
        side = min(side, height, width)
        margin = (side - self.patch) // 2
        y = min(max(0, top - margin), height - side)
        x = min(max(0, left - margin), width - side)
        times = slice(middle - stride, middle + stride + 1, stride)
        crop = clip[times, :, y : y + side, x : x + side].float()
        if side == self.patch:
            return crop
        size = (self.patch, self.patch)
        return F.interpolate(crop, size, mode="bilinear", antialias=True)

    def _turn(self, triple: Tensor, coin: Tensor) -> Tensor:
        """Flip, turn, reverse time and swap colours, the same for the whole triple."""
        axes = [axis for axis, value in zip((0, 2, 3), coin[:3], strict=True) if value < 0.5]
        turned = triple.flip(axes)
        if coin[3] < 0.5:
            turned = turned.transpose(2, 3)
        if coin[4] < 0.3:
            order = torch.randperm(3, generator=self.host_generator)
            turned = turned[:, order.to(triple.device)]
        return turned

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
