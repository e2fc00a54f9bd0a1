"""Seeking cells of a frame all around in another one, on a CPU: numba loops over rows.

`models/matching.py` says what for; `motion_cuda` has the same for a GPU. numba is imported at the
top, so import this module only when it is needed.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.kernels.cpu import Array, as_array, run
from sepconv_video.kernels.frames_cpu import ONE, ZERO
from sepconv_video.kernels.motion import Matching
from sepconv_video.kernels.vectors import clamp, compiled

LOOKS = 0x2D53EC48  # as in `frames_cpu`

Three = tuple[int, int, int]


def match(
    own: Tensor, other: Tensor, flow: Tensor, unexplained: Tensor, matching: Matching
) -> tuple[Tensor, Tensor]:
    """Do what `motion.match` says."""
    window, reach, least, share, penalty = matching
    made, found = flow.clone(memory_format=torch.contiguous_format), unexplained > least
    # cells beside each other in both frames, so that a row of places is compared at once
    around = F.pad(other, [reach] * 4, mode="replicate")
    arrays = [as_array(tensor) for tensor in (own, around, flow, unexplained)]
    result, new = made.numpy(), found.numpy()
    figures = np.float32(share), np.float32(penalty / reach)
    rows = found[:, 0].any(2).nonzero().tolist()  # few have any

    def work(own_costs: Array, task: int) -> None:
        n, y = rows[task]
        here = tuple(array[n] for array in (*arrays, result, new))
        _match_row(here, (window // 2, reach, y), figures, own_costs)

    run(work, len(rows), (), lambda: np.empty(2 * reach + 1, np.float32))
    return made, found


@compiled()
def _compare_places(costs: Array, own: Array, other: Array, at: Three, radius: int) -> None:
    """Sum what differs over the window around a cell, for a row of places in the other frame.

    Args:
        costs: (places,), overwritten.
        own: (C, H, W).
        other: As in `_match_row`.
        at: The cell's row and column, and how many rows below it in `other`.
        radius: Half of the window.
    """
    (channels, H, W), places = own.shape, len(costs)
    for k in range(places):
        costs[k] = ZERO
    for c in range(channels):
        for i in range(-radius, radius + 1):
            row = clamp(at[0] + i, 0, H - 1)
            for j in range(-radius, radius + 1):
                column = clamp(at[1] + j, 0, W - 1)
                value = own[c, row, column]
                line = other[c, row + at[2], column : column + places]
                for k in range(places):
                    costs[k] += abs(value - line[k])


@compiled(called_from_python=True)
def _match_row(
    arrays: tuple[Array, ...], sizes: Three, figures: tuple[Any, Any], costs: Array
) -> None:
    """Seek those cells of a row that are marked; mark only what is found.

    Args:
        arrays: Of one pair: (C, H, W); (C, H + 2*reach, W + 2*reach), edges repeated; (2, H, W);
            (1, H, W); the new motion, and the marks, bool, as the last two.
        sizes: Half the window, the reach, the row.
        figures: As in `Matching`, the penalty by the cell.
        costs: A buffer, (2*reach + 1,).
    """
    (own, other, flow, unexplained, result, marks), (radius, reach, y) = arrays, sizes
    (channels, _, W), (share, penalty) = own.shape, figures
    part = ONE / np.float32(channels * (2 * radius + 1) ** 2)
    for x in range(W):
        if not marks[0, y, x]:
            continue
        known_x, known_y, best = flow[0, y, x], flow[1, y, x], share * unexplained[0, y, x]
        marks[0, y, x] = False
        for step in range(-reach, reach + 1):
            down = np.float32(step)
            _compare_places(costs, own, other, (y, x, reach + step), radius)
            for k in range(len(costs)):
                across = np.float32(k - reach)
                away_x, away_y = across - known_x, down - known_y
                cost = costs[k] * part + penalty * np.sqrt(away_x * away_x + away_y * away_y)
                if cost < best:
                    best, marks[0, y, x] = cost, True
                    result[0, y, x], result[1, y, x] = across, down
