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
        """(M, 3, 2*patch, 2*patch) uint8 squares out of pictures and of frames."""
        side = 2 * self.patch
        sources = pictures + [clip[len(clip) // 2].cpu() for clip in self.clips]
        squares = []
        for source in sources:
            height, width = source.shape[-2:]
            scale = max(1.0, side / min(height, width))
            if scale > 1:
                size = (max(side, round(height * scale)), max(side, round(width * scale)))
                source = F.interpolate(source[None].float(), size, mode="bicubic")[0]
                source = source.clamp(0, 255).to(torch.uint8)
                height, width = size
            for _ in range(4):
                top = self._integer(height - side + 1)
                left = self._integer(width - side + 1)
                squares.append(source[:, top : top + side, left : left + side])
        return torch.stack(squares).to(self.device)

    def _integer(self, bound: int) -> int:
        return int(torch.randint(bound, (1,), generator=self.host_generator))

    def batch(self, count: int, synthetic: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw `count` triples, `synthetic` of them made: each (count, 3, patch, patch) in [0, 1]."""
        triples = self._real(count - synthetic)
        if synthetic:
            made = layered_triples(self.textures, synthetic, self.patch, self.generator)
            triples = torch.cat((triples, made))
        return self._augment(triples)

    def _real(self, count: int) -> Tensor:
        """(count, 3 frames, 3, patch, patch) float crops in [0, 1]."""
        zoom = ZOOMS[self._integer(len(ZOOMS))]
        side = int(self.patch * zoom)
        rows = torch.multinomial(
            self.table.weights, count, replacement=True, generator=self.host_generator
        )
        crops = []
        for number, middle, stride, top, left in self.table.places[rows].tolist():
            clip = self.clips[number]
            side_here = min(side, *clip.shape[-2:])
            top = min(max(0, top - (side_here - self.patch) // 2), clip.shape[-2] - side_here)
            left = min(max(0, left - (side_here - self.patch) // 2), clip.shape[-1] - side_here)
            crop = clip[
                middle - stride : middle + stride + 1 : stride,
                :,
                top : top + side_here,
                left : left + side_here,
            ].float()
            if side_here != self.patch:
                size = (self.patch, self.patch)
                crop = F.interpolate(crop, size, mode="bilinear", antialias=True)
            crops.append(crop)
        return torch.stack(crops) / 255

    def _augment(self, triples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flip, turn, reverse time and change light, each the same for a whole triple."""
        count = len(triples)
        coins = torch.rand(count, 5, generator=self.host_generator)
        turned = []
        for triple, coin in zip(triples, coins, strict=True):
            axes = [axis for axis, value in zip((0, 2, 3), coin[:3], strict=True) if value < 0.5]
            triple = triple.flip(axes)
            if coin[3] < 0.5:
                triple = triple.transpose(2, 3)
            if coin[4] < 0.3:
                order = torch.randperm(3, generator=self.host_generator)
                triple = triple[:, order.to(triple.device)]
            turned.append(triple)
        triples = torch.stack(turned)
        gain = 0.8 + 0.4 * torch.rand(count, generator=self.generator, device=self.device)
        triples = (triples * gain[:, None, None, None, None]).clamp(0, 1)
        left, middle, right = triples.unbind(1)
        return left, middle, right

    def state(self) -> dict[str, Tensor]:
        """The random state, for an exact resume."""
        return {"device": self.generator.get_state(), "host": self.host_generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        self.generator.set_state(state["device"].cpu())
        self.host_generator.set_state(state["host"].cpu())
