"""How much a network gets at once: what the memory holds, and less after each failure.

A GPU out of memory says so and is given less. A process out of the host's memory is killed
without a word, so there the size of the tiles is chosen beforehand, by what the system, the
control group and the process's own limits leave.
"""

import ctypes
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from sepconv_video.errors import DeviceError, OptionsError
from sepconv_video.models.bending import UNKNOWN, Bending, Known
from sepconv_video.models.tiles import SMALLEST_TILE, Tiled, seen_pixels

Interpolator = Callable[[Tensor, Tensor], Tensor]
"""Predicts the frame half way between two batches (N, 3, H, W) of RGB in [0, 1]. One that has
the attributes of `Tiled` is also called with `tile`, where frames are too large for it."""

FRAME_BYTES_PER_PIXEL, MADE_BYTES_PER_PIXEL = 36, 19
"""Peak memory of all but the network, per pixel: of one pair, and besides of each frame made
between; conversions, and the frames in float32; measured, see `tests/test_memory.py`."""
UNKNOWN_BYTES_PER_PIXEL = 4000
"""Peak memory of a network that does not tell, in float32 for one pair, per pixel."""
SHARE = 0.6
"""Of the free memory; the rest is for decoder, encoder, kernels' scratch and others."""
LARGEST_BATCH = {"cpu": (8, 2**20), "cuda": (32, 2**24)}
"""Pairs at once, and pixels of all of them, at most. On a CPU frames of 448x256 gain a third by
coming in batches, larger ones nothing. On a GPU launches take as long for few pixels as for many:
most of the 5 ms that a pair of 448x256 took by itself on an H200."""
MOST_SEEN = {"cpu": sys.maxsize, "cuda": 2**25}
"""Pixels that a network sees at once, whatever memory there is. PyTorch's `upsample_bilinear2d`
counts in 32 bits on a GPU, and the 2017 network has 56 values for each pixel."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls them, in glibc's `malloc.h`."""
_LARGEST_KEPT, _MOST_KEPT = 2**30, 2**31 - 1
"""Bytes: of a block, and of all that lies at the end; no more can be said to `mallopt`."""

_CGROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By controller as `/proc/self/cgroup` names it (version 2, version 1): folder, limit, usage,
and the entry of `memory.stat` that counts what the kernel would give back."""


class Ladder:
    """A network, and how much it gets at once: a batch of pairs, one pair, one pair in tiles.

    What was chosen for a size of frames, and a number made of each pair, holds until there
    are others.

    Attributes:
        batch: Pairs at once.
        tile: Pixels a side of a tile; None for whole frames.
    """

    def __init__(
        self,
        model: Interpolator,
        device: torch.device,
        dtype: torch.dtype,
        batch: int | None = None,
        tile: int | None = None,
    ) -> None:
        """Take a network on `device`; a `batch` and `tile` given are where it starts.

        Raises:
            OptionsError: A tile is given, and the network knows no tiles.
        """
        if tile is not None and not isinstance(model, Tiled):
            raise OptionsError("this network cannot work in tiles", "leave `--tile` out")
        self._model, self._device, self._dtype = model, device, dtype
        self._given = batch, tile
        self._size, self._made = (0, 0), 0
        self.batch, self.tile = batch or 1, tile

    def begin(self, width: int, height: int, made: int) -> None:
        """Choose for frames of this size, by the memory that is free now.

        Args:
            width: Pixels.
            height: Pixels.
            made: New frames of a pair, at most.
        """
        if (self._size, self._made) == ((width, height), made):
            return
        self._size, self._made = (width, height), made
        batch, self.tile = self._given
        give_back_freed()
        free = int(SHARE * free_bytes(self._device))
        pairs, pixels = LARGEST_BATCH[self._device.type]
        if self.tile and self._device.type == "cpu":
            pairs = 1
        most = min(pairs, pixels // (width * height), free // self._pair_bytes())
        self.batch = batch or max(1, most)
        seen = MOST_SEEN[self._device.type]
        fits = self.batch * self._pair_bytes() <= free and self.batch * width * height <= seen
        if self.tile is None and not fits:
            self.tile = self._fitting_tile(free // self.batch, seen // self.batch)

    def predict(self, left: Tensor, right: Tensor, known: Known = UNKNOWN) -> Tensor:
        """Call the network, with the tile and with what is known of the pairs where it can."""
        if isinstance(self._model, Bending):
            return self._model(left, right, self.tile, known)
        if self.tile is not None and isinstance(self._model, Tiled):
            return self._model(left, right, self.tile)
        return self._model(left, right)

    def step_down(self) -> None:
        """Give less from now on: half the batch, at one pair tiles of half the side.

        Raises:
            DeviceError: There is nothing less.
        """
        largest = self.tile or max(self._size)
        if self.batch > 1:
            self.batch //= 2
        elif isinstance(self._model, Tiled) and largest > SMALLEST_TILE:
            self.tile = max(SMALLEST_TILE, largest // 2)
        else:
            width, height = self._size
            tiles = f", not even in tiles of {self.tile}," if self.tile else ""
            raise DeviceError(
                f"out of memory: one pair of {width}x{height} frames does not fit{tiles} "
                f"on `{self._device}`",
                "close other programs"
                + ("" if self._device.type == "cpu" else ", use fp16, or `--device cpu`"),
            )

    @property
    def notes(self) -> list[str]:
        """What the user did not ask for, in at most one line."""
        batch, tile = self._given
        width, height = self._size
        if self.tile != tile:
            what = f"a pair of {width}x{height} frames", f"tiles of {self.tile} pixels"
        elif batch is not None and self.batch != batch:
            what = f"a batch of {batch}", f"{self.batch}"
        else:
            return []
        return [f"{what[0]} does not fit into the memory of `{self._device}`: used {what[1]}"]

    def _network_bytes(self) -> int:
        """Memory of the network for each pixel that it sees at once."""
        size = UNKNOWN_BYTES_PER_PIXEL
        if isinstance(self._model, Tiled):
            size = self._model.bytes_per_pixel
        return size * self._dtype.itemsize // 4

    def _frame_bytes(self) -> int:
        """Memory for one pair, whatever of it is seen at once."""
        size = FRAME_BYTES_PER_PIXEL + MADE_BYTES_PER_PIXEL * self._made
        if isinstance(self._model, Tiled):
            size += self._model.frame_bytes_per_pixel
        return size * math.prod(self._size)

    def _pair_bytes(self) -> int:
        width, height = self._size
        halo = self._model.halo if isinstance(self._model, Tiled) else 0
        seen = seen_pixels(height, width, self.tile, halo)
        return self._frame_bytes() + self._network_bytes() * seen

    def _fitting_tile(self, free: int, seen: int) -> int | None:
        """Side of the largest tile for which so many bytes, and pixels seen, are enough.

        The smallest where none is.
        """
        if not isinstance(self._model, Tiled) or max(self._size) <= SMALLEST_TILE:
            return None
        pixels = min(seen, max(0, free - self._frame_bytes()) // self._network_bytes())
        # a strip across the frame where a square would stick out
        side = max(math.isqrt(pixels), pixels // min(self._size))
        return max(SMALLEST_TILE, side - 2 * self._model.halo)


def is_out_of_memory(error: Exception) -> bool:
    """Tell an allocation that failed from other faults."""
    # a CPU's allocator raises a bare RuntimeError, and so do oneDNN, CUDA and its libraries
    words = (
        "can't allocate memory",
        "could not create a memory",
        "std::bad_alloc",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "cudaErrorMemoryAllocation",
    )
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in str(error) for word in words
    )


def keep_freed() -> None:
    """Let glibc keep the memory that is freed, as the next frame takes as much again.

    It gives blocks of more than 32 MB back at once, and to get them anew from the system takes a
    twelfth of the time of a 1080p frame on a CPU. Other C libraries know no such setting.
    """
    _from_glibc("mallopt")(_TRIM_THRESHOLD, _MOST_KEPT)
    _from_glibc("mallopt")(_MMAP_THRESHOLD, _LARGEST_KEPT)


def give_back_freed() -> None:
    """Give the system back what glibc keeps."""
    _from_glibc("malloc_trim")(0)


def _from_glibc(name: str) -> Callable[..., int]:
    """A function of glibc; elsewhere one that does nothing."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, name, lambda *_: 0)


def free_bytes(device: torch.device) -> int:
    """Tell how much memory may still be had on a device."""
    if device.type != "cuda":
        return free_host_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    # torch keeps what it has freed
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_host_bytes(root: Path = Path("/")) -> int:
    """Tell how much memory this process may still take: the least that any limit leaves.

    Args:
        root: Where `proc` and `sys` lie.

    Returns:
        Bytes; `sys.maxsize` where the system has no `/proc` and nothing is known.
    """
    process = root / "proc/self"
    if not (process / "limits").is_file():
        return sys.maxsize
    used = _sizes(process / "status")
    limits = dict(re.findall(r"^(Max [a-z ]+?) +(\d+)", (process / "limits").read_text(), re.M))
    left = [
        _sizes(root / "proc/meminfo")["MemAvailable"],
        int(limits.get("Max address space", sys.maxsize)) - used["VmSize"],
        int(limits.get("Max data size", sys.maxsize)) - used["VmData"],
        *_left_in_cgroups(root),
    ]
    return max(0, min(left))


def _sizes(path: Path) -> dict[str, int]:
    """Read lines like `VmSize:  640680 kB`, as bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(), re.M)
    return {name: int(size) * 1024 for name, size in found}


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Give what is left to each control group that this process is in, and to those around it."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in _CGROUPS:
            continue
        folder, limit, usage, cache = _CGROUPS[controllers]
        top = root / "sys/fs/cgroup" / folder
        group = top / name.lstrip("/")
        for place in (group, *group.parents):
            most = place / limit
            if most.is_file() and (text := most.read_text().strip()).isdecimal():
                kept = dict(re.findall(r"^(\w+) (\d+)$", (place / "memory.stat").read_text(), re.M))
                used = int((place / usage).read_text()) - int(kept.get(cache, 0))
                yield int(text) - used
            if place == top:
                break
