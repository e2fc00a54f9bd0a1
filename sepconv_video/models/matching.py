"""Finding the motion: cost volumes over the whole reach, then candidates settled pixel by pixel.

All motion here is that of a pair towards its middle, in pixels on a grid of cells of 4: channels
x and y of the left frame, then of the right (the left is sampled at x + motion, and so is the
right). Costs are differences of the moved frames; they have no parameters and no gradient. What
is learned is how sharply costs decide, and corrections by what the network knows.
"""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.models.blocks import (
    box,
    cost_volume,
    displacements,
    sample,
    sampling_grid,
    shrink,
    upsample,
    warp,
    zero_conv,
)

CELL = 4
"""Side in pixels of a cell of the grid that motion is found on."""
WINDOW = 20
"""Costs of a cell are averaged over about so many pixels a side: they carry texture enough."""
STEP = 2
"""Costs look at every second pixel of every second row: as good as all, at a quarter."""


class Belief(NamedTuple):
    """What a network thinks of some displacements or motions, and what training knows of them."""

    likelihood: Tensor
    """(N, D, rows, columns), sums to one over D."""
    true_cost: Tensor
    """(N, D, rows, columns): how far each of them takes the frames from the true middle."""
    distance: Tensor
    """(D,): among equals the lesser is to be believed."""


class Weigher(nn.Module):
    """Likelihoods from costs, corrected by what the network knows."""

    distance: Tensor

    def __init__(
        self, distance: Tensor, knowledge: int, sharpness: float, stillness: float
    ) -> None:
        """Build for D = len(distance) alternatives.

        Args:
            distance: (D,): how much better than the first an alternative must be, in units.
            knowledge: Channels that correct the costs.
            sharpness: Initial scale of the costs.
            stillness: Initial unit of `distance`.
        """
        super().__init__()
        self.register_buffer("distance", distance, persistent=False)
        self.correct = zero_conv(knowledge, len(distance), side=1)
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        self.stillness = nn.Parameter(torch.tensor(stillness))

    def weigh(self, cost: Tensor, knowledge: Tensor) -> Tensor:
        """Likelihood (N, D, rows, columns) by relative cost (same shape) and knowledge; float32."""
        evidence = self.sharpness * (cost + self.stillness * self.distance[:, None, None])
        return torch.softmax(self.correct(knowledge).float() - evidence.float(), dim=1)

    def _decide(
        self,
        moved: tuple[Tensor, Tensor],
        middle: Tensor | None,
        knowledge: Tensor,
        cell: int,
        window: int,
    ) -> tuple[Tensor, "Belief | None"]:
        """Weigh alternatives by what they make of both frames, (N, D, H/STEP, W/STEP) each."""
        left, right = moved
        with torch.no_grad():
            cost = relative(_windowed((left - right).abs_(), cell, window))
        likelihood = self.weigh(cost, knowledge)
        if middle is None:
            return likelihood, None
        with torch.no_grad():
            true = middle[..., ::STEP, ::STEP]
            miss = (left - true).abs_() + (right - true).abs_()
            return likelihood, Belief(
                likelihood, relative(_windowed(miss, cell, window)), self.distance
            )


class Matching(Weigher):
    """A cost volume, and the motion that it and what the network knows suggest."""

    offsets: Tensor

    def __init__(self, cell: int, radius: int, features: int, knowledge: int) -> None:
        """Build for displacements of up to `radius` cells of `cell` pixels.

        Args:
            cell: Side of a cell in pixels.
            radius: Largest displacement in cells.
            features: Channels that the volume is condensed to.
            knowledge: Channels that correct the volume.
        """
        # small motion is likelier than large: without this, flat areas match anywhere
        offsets = displacements(radius)
        super().__init__(offsets.norm(dim=1), knowledge, sharpness=10.0, stillness=0.15)
        self.cell, self.radius = cell, radius
        self.register_buffer("offsets", offsets, persistent=False)
        self.mix = nn.Sequential(
            nn.Conv2d(len(offsets), features, 1), nn.LeakyReLU(0.1, inplace=True)
        )

    @torch.no_grad()
    def cost(self, left: Tensor, right: Tensor) -> Tensor:
        """Match normalised frames (N, 3, H, W): (N, D, H/cell, W/cell), 1 for a mean match."""
        return relative(cost_volume(left, right, self.cell, self.radius))

    @torch.no_grad()
    def true_cost(self, left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
        """As `cost`, of each frame with the true middle."""
        left, middle, right = (F.avg_pool2d(frame, self.cell) for frame in (left, middle, right))
        # -d comes at the mirrored place in the list of displacements
        mirrored = _one_sided(right, middle, self.radius).flip(1)
        return relative(box(_one_sided(left, middle, self.radius) + mirrored, 3))

    def condense(self, cost: Tensor) -> Tensor:
        """The volume as features (N, features, H/cell, W/cell) for the network."""
        condensed: Tensor = self.mix(torch.exp(-cost).to(self.correct.weight.dtype))
        return condensed

    def motion(self, likelihood: Tensor) -> Tensor:
        """Mean motion of the left frame, (N, 2, rows, columns); the right's is its negative."""
        return _mean_offset(likelihood, self.offsets * self.cell)


class Choice(Weigher):
    """Which of several motions each cell should have; propagation is PatchMatch's idea.

    (Barnes et al., SIGGRAPH 2009; here all candidates are weighed at once.)
    """

    def __init__(self, count: int, knowledge: int, cell: int = CELL) -> None:
        """Build for `count` candidates, the first of which is the one to stay with.

        Args:
            count: Number of candidates.
            knowledge: Channels that correct the costs.
            cell: Side in pixels of a cell of the candidates' grid.
        """
        distance = torch.ones(count)
        distance[0] = 0
        super().__init__(distance, knowledge, sharpness=10.0, stillness=0.0)
        self.cell = cell

    def forward(
        self, grey: "Grey", candidates: list[Tensor], knowledge: Tensor, window: int = WINDOW
    ) -> "Settled":
        """Weigh motions (N, 4, H/cell, W/cell) by how well they make the frames meet."""
        motions = torch.stack(candidates, 1)
        with torch.no_grad():
            left = _sampled(grey.left, motions[:, :, :2], self.cell)
            right = _sampled(grey.right, motions[:, :, 2:], self.cell)
        likelihood, belief = self._decide((left, right), grey.middle, knowledge, self.cell, window)
        return Settled((likelihood[:, :, None] * motions).sum(1), belief)


class Refinement(Weigher):
    """A cost volume in single pixels around the motion found so far."""

    offsets: Tensor

    def __init__(self, radius: int, knowledge: int) -> None:
        """Build for corrections of up to `radius` pixels in x and y."""
        offsets = displacements(radius)
        super().__init__(offsets.norm(dim=1), knowledge, sharpness=20.0, stillness=0.03)
        self.radius = radius
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(
        self, grey: "Grey", motion: Tensor, knowledge: Tensor, window: int = WINDOW
    ) -> "Settled":
        """Correct motion (N, 4, H/4, W/4), both frames' by the same way."""
        with torch.no_grad():
            full = upsample(motion, CELL)
            left = _shifted(warp(grey.left, full[:, :2]), self.radius)
            # where the left moves by d, the right moves by -d
            right = _shifted(warp(grey.right, full[:, 2:]), self.radius).flip(1)
        likelihood, belief = self._decide((left, right), grey.middle, knowledge, CELL, window)
        change = _mean_offset(likelihood, self.offsets)
        return Settled(motion + torch.cat((change, -change), 1), belief)


class Grey(NamedTuple):
    """Normalised frames without their colours, (N, 1, H, W); the middle only in training."""

    left: Tensor
    right: Tensor
    middle: Tensor | None

    @classmethod
    def of(cls, left: Tensor, right: Tensor, middle: Tensor | None) -> Self:
        """Average the channels of frames (N, 3, H, W)."""
        return cls(
            left.mean(1, keepdim=True),
            right.mean(1, keepdim=True),
            None if middle is None else middle.mean(1, keepdim=True),
        )


class Settled(NamedTuple):
    """A motion that has been chosen, and in training what was thought of the alternatives."""

    motion: Tensor
    """(N, 4, rows, columns), on the grid of the candidates."""
    belief: Belief | None


def relative(cost: Tensor) -> Tensor:
    """Costs over their mean: what counts is how much better one match is than the rest."""
    return cost / (cost.mean(1, keepdim=True) + 0.015)


def still_and_smooth(motion: Tensor) -> list[Tensor]:
    """Candidates: the motion itself, none, and its mean over some 80 pixels around."""
    coarse = F.avg_pool2d(F.avg_pool2d(motion, 4), 5, 1, 2, count_include_pad=False)
    return [motion, torch.zeros_like(motion), upsample(coarse, 4)]


def neighbours(motion: Tensor, cells: int) -> list[Tensor]:
    """Candidates: the motion itself, and what it is so many cells above, below, left and right."""
    height, width = motion.shape[-2:]
    padded = F.pad(motion, [cells] * 4, mode="replicate")
    corners = ((0, cells), (2 * cells, cells), (cells, 0), (cells, 2 * cells))
    return [motion, *(padded[..., y : y + height, x : x + width] for y, x in corners)]


def _mean_offset(likelihood: Tensor, offsets: Tensor) -> Tensor:
    # not einsum, which autocast would run in half precision
    return (likelihood[:, :, None] * offsets.float()[:, :, None, None]).sum(1)


def _sampled(frame: Tensor, motions: Tensor, cell: int) -> Tensor:
    """Every STEP-th pixel and row of a frame (N, 1, H, W), moved in K ways.

    Args:
        frame: (N, 1, H, W).
        motions: (N, K, 2, H/cell, W/cell).
        cell: Side of a cell in pixels, a multiple of STEP.

    Returns:
        (N, K, H/STEP, W/STEP).
    """
    fine = upsample(motions.flatten(0, 1), cell // STEP)
    frames = frame[:, None].expand(-1, motions.shape[1], -1, -1, -1).flatten(0, 1)
    return sample(frames, sampling_grid(fine, STEP)).view(*motions.shape[:2], *fine.shape[-2:])


def _shifted(frame: Tensor, radius: int) -> Tensor:
    """A frame (N, 1, H, W) moved by each of `displacements(radius)`: (N, D, H/STEP, W/STEP).

    Every STEP-th pixel and row only.
    """
    height, width = frame.shape[-2:]
    padded = F.pad(frame, [radius] * 4, mode="replicate")[:, 0]
    views = padded.unfold(1, height, 1).unfold(2, width, 1)[..., ::STEP, ::STEP]
    return views.flatten(1, 2)


def _windowed(difference: Tensor, cell: int, window: int) -> Tensor:
    """Average (N, D, H/STEP, W/STEP) over a window around each cell: (N, D, H/cell, W/cell)."""
    # the odd number of cells next below or at the window's side
    return box(shrink(difference, cell // STEP), (window // cell - 1) // 2 * 2 + 1)


def _one_sided(moved: Tensor, fixed: Tensor, radius: int) -> Tensor:
    """Mean |moved(x + d) - fixed(x)| over the channels, (N, D, H, W)."""
    height, width = fixed.shape[-2:]
    windows = F.pad(moved, [radius] * 4, mode="replicate").unfold(3, width, 1)
    rows = [
        (windows[:, :, dy : dy + height] - fixed[:, :, :, None]).abs().mean(1).transpose(1, 2)
        for dy in range(2 * radius + 1)
    ]
    return torch.cat(rows, dim=1)
