"""The steps of a search for motion against the same in PyTorch's operations."""

import zlib
from pathlib import Path

import motion_reference as reference
import pytest
import torch
import torch.nn.functional as F
from reduced import in_cells

from sepconv_video.kernels import (
    cuda,
    frames_cpu,
    frames_cuda,
    light_cpu,
    looks,
    match_cpu,
    motion_cpu,
    motion_cuda,
    planar_cpu,
    vectors,
)
from sepconv_video.kernels.motion import GENTLE, MODES, STEEP, Warping
from sepconv_video.models import alignment, blocks
from sepconv_video.models.alignment import find_motions
from sepconv_video.models.blocks import box
from sepconv_video.models.matching import MATCHING


def moving(size, device="cpu"):
    """Two textures, two frames of each, and a motion that is a little off."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    noise = torch.randn(2, 3, height + 10, width + 10, generator=generator)
    picture = 3 * F.avg_pool2d(noise, 5, 1)
    left, right = (picture[..., y : y + height, x : x + width] for y, x in ((0, 2), (3, 0)))
    motion = torch.randn(2, 2, height, width, generator=generator)
    return tuple(tensor.contiguous().to(device) for tensor in (left, right, motion))


def steps_in_pytorch(left, right, motion):
    yield reference.correct(left, right, motion)
    for distance in (alignment.FAR, alignment.NEAR):
        candidates = [motion, *reference.neighbours(motion, distance)]
        yield reference.choose(left, right, candidates)


def steps_on_a_cpu(left, right, motion):
    frames = frames_cpu.interleaved(left), frames_cpu.interleaved(right)
    yield motion_cpu.correct(frames, motion, alignment.CONSTANTS)
    for distance in (alignment.FAR, alignment.NEAR):
        yield motion_cpu.choose(frames, motion, alignment.CONSTANTS, distance)


def steps_on_a_gpu(left, right, motion):
    with cuda.current_stream(left.device.index):
        yield motion_cuda.correct(left, right, motion, alignment.CONSTANTS)
        for distance in (alignment.FAR, alignment.NEAR):
            yield motion_cuda.choose(left, right, motion, alignment.CONSTANTS, distance)


SIZES = [(1, 1), (1, 3), (16, 32), (37, 75), (31, 5), (33, 64), (130, 90)]


def assert_same_steps(found, given):
    for ours, torchs in zip(found(*given), steps_in_pytorch(*given), strict=True):
        assert ours.shape == torchs.shape
        assert (ours - torchs).abs().max() <= 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_a_cpu_finds_what_pytorch_finds(size):
    assert_same_steps(steps_on_a_cpu, moving(size))


def assert_matched(match, own, other, motion):
    """As in PyTorch; or a place that is as good, where sums in another order decide."""
    flow = 2 * motion
    unexplained = 3 * box((own - other).abs().mean(1, keepdim=True), 5)
    unexplained[..., 1::3] = 0
    made, found = match(own, other, flow, unexplained, MATCHING)
    wanted, there = reference.match(own, other, flow, unexplained)
    assert made.shape == flow.shape
    assert torch.equal(found, there)
    assert not found[..., 1::3].any()
    assert torch.equal(made[~found.expand_as(made)], flow[~found.expand_as(made)])
    if found.any():
        assert (made == wanted).float().mean() > 0.99
        assert made[found.expand_as(made)].abs().max() <= MATCHING.reach


@pytest.mark.parametrize("size", SIZES)
def test_a_cpu_matches_as_pytorch_does(size):
    assert_matched(match_cpu.match, *moving(size))


def test_any_strides_and_any_number_of_threads():
    given = moving((70, 90))
    wanted = motion_cpu.search(*given, alignment.CONSTANTS)
    turned = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in given]
    assert torch.equal(motion_cpu.search(*turned, alignment.CONSTANTS), wanted)
    threads = torch.get_num_threads()
    try:
        for count in (1, 5):
            torch.set_num_threads(count)
            assert torch.equal(motion_cpu.search(*given, alignment.CONSTANTS), wanted)
    finally:
        torch.set_num_threads(threads)


WARPINGS = [
    Warping(mode, corner, factor)
    for mode in MODES
    for corner, factor in [((0, 0), 1), ((0, 0), 2), ((6, 12), 2)]
]


def assert_warped(warp, how, size, device="cpu", dtype=torch.float32):
    """Against `F.grid_sample`; most places leave the frames somewhere."""
    most = 2e-3 if dtype == torch.float32 else 0.02
    generator = torch.Generator().manual_seed(1)
    height, width = size
    for channels in range(1, 5):
        frames = torch.randn(2, channels, height, width, generator=generator)
        motion = 4 * torch.randn(2, 2, height // 2 + 1, width // 2 + 1, generator=generator)
        if how.mode == "nearest" and how.factor == 1:  # never half way between two cells
            motion = motion.round() + 0.3
        frames, motion = frames.to(device, dtype), motion.to(device)
        found = warp(frames, motion, how)
        assert found.dtype == dtype
        wanted = blocks.warp(frames.float(), motion.requires_grad_(), *how).detach()
        near = (found - wanted).abs() <= most
        assert near.float().mean() >= (0.99 if how.mode == "nearest" else 1)


def assert_gathered(gather, size, device="cpu", dtype=torch.float32):
    """Into some channels of more: as `warp` and PyTorch make them."""
    height, width = size
    for corner in ((0, 0), (6, 12)):
        frames = torch.randn(2, 3, height, width).to(device, dtype)
        motion = 4 * torch.randn(2, 2, height // 2 + 1, width // 2 + 1).to(device)
        wanted = blocks.warp(frames, motion, "bilinear", corner, 2)
        whole = torch.zeros(2, 26, *motion.shape[2:], device=device, dtype=dtype)
        whole = whole.contiguous(memory_format=torch.channels_last)
        gather(frames, motion, corner, whole[:, 12:24])
        assert (whole[:, 12:24] - F.pixel_unshuffle(wanted, 2)).abs().max() < 1e-4
        assert not whole[:, :12].any()
        assert not whole[:, 24:].any()


def assert_differing(differ, size, device="cpu"):
    for channels in (1, 3):
        left, right = torch.randn(2, 2, channels, *size).to(device)
        motions = [torch.randn(2, 2, *size).to(device) * scale for scale in (1, 6)]
        changes = [blocks.warp(left, motion) - blocks.warp(right, -motion) for motion in motions]
        wanted = torch.stack([change.abs().mean(1) for change in changes], 1)
        assert (differ(left, right, motions) - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 75), (200, 130)])
def test_a_cpu_compares_as_pytorch_does(size):
    assert_differing(frames_cpu.differ, size)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 75), (200, 130)])
def test_a_cpu_gathers_as_pytorch_does(size):
    assert_gathered(frames_cpu.gather, size)


@pytest.mark.parametrize("how", WARPINGS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 75), (200, 130)])
def test_a_cpu_warps_as_pytorch_does(how, size):
    assert_warped(frames_cpu.warp, how, size)


def assert_averaged(box, size, device="cpu"):
    for side in (3, 9):
        maps = torch.randn(2, 3, *size).to(device)
        wanted = F.avg_pool2d(F.pad(maps, [side // 2] * 4, mode="replicate"), side, 1)
        for given in (maps, maps.contiguous(memory_format=torch.channels_last)):
            assert (box(given, side) - wanted).abs().max() < 1e-5


def assert_halved(halve, size, device="cpu"):
    maps = torch.rand(2, 3, *size).to(device)
    # double, as a GPU rounds what single precision is convolved with
    beyond = [3, 3 + size[1] % 2, 3, 3 + size[0] % 2]
    even = F.pad(maps.double(), beyond, mode="replicate")
    for weights in (STEEP, GENTLE):
        across = even.new_tensor([*weights, *weights[::-1]])
        square = across.outer(across)[None, None]
        wanted = F.conv2d(even.flatten(0, 1)[:, None], square, stride=2)
        for given in (maps, maps.contiguous(memory_format=torch.channels_last)):
            assert (halve(given, weights).flatten(0, 1)[:, None] - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (37, 75), (330, 201)])
def test_a_cpu_halves_as_pytorch_does(size):
    assert_halved(frames_cpu.halve, size)


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (37, 75), (300, 190)])
def test_a_cpu_averages_as_pytorch_does(size):
    assert_averaged(frames_cpu.box, size)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_warping_to_places_that_are_none_stays_within_the_frames(mode, value):
    motion = torch.full((1, 2, 9, 9), value)
    frames = torch.rand(1, 3, 20, 30)
    made = frames_cpu.warp(frames, motion, Warping(mode, (0, 0), 1))
    assert frames.amin() - 1e-5 <= made.amin()
    assert made.amax() <= frames.amax() + 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_places_that_are_none_stay_within_the_frames(value):
    left, right, motion = moving((20, 30))
    motion[:, :, 3, 4] = value
    for _ in steps_on_a_cpu(left, right, motion):
        pass
    clean = motion_cpu.search(left, right, torch.zeros_like(motion), alignment.CONSTANTS)
    assert clean.isfinite().all()


def test_neighbours_are_those_above_below_left_and_right():
    field = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert [c[0, 0, 1, 1].item() for c in reference.neighbours(field, 1)] == [1, 9, 4, 6]
    # repeated edges
    assert [c[0, 0, 0, 0].item() for c in reference.neighbours(field, 1)] == [0, 4, 0, 1]


@pytest.mark.parametrize("module", [frames_cpu, light_cpu, match_cpu, motion_cpu, planar_cpu])
def test_the_cache_notices_changed_vector_code(module):
    """As `cpu.VECTORS`."""
    found = zlib.crc32(b"".join(Path(one.__file__).read_bytes() for one in (vectors, looks)))
    assert found == module.LOOKS, f"write `LOOKS = 0x{found:08X}` in {module.__name__}"


@pytest.mark.cuda
@pytest.mark.parametrize("size", [*SIZES, (270, 480)])
def test_a_gpu_finds_what_pytorch_finds(size):
    assert_same_steps(steps_on_a_gpu, moving(size, "cuda"))


@pytest.mark.cuda
@pytest.mark.parametrize("size", [*SIZES, (135, 240)])
def test_a_gpu_matches_as_pytorch_does(size):
    assert_matched(motion_cuda.match, *moving(size, "cuda"))


@pytest.mark.cuda
@pytest.mark.parametrize("how", WARPINGS)
@pytest.mark.parametrize("size", [(1, 1), (37, 75), (200, 130)])
def test_a_gpu_warps_as_pytorch_does(how, size):
    for dtype in (torch.float32, torch.float16):
        assert_warped(frames_cuda.warp, how, size, "cuda", dtype)


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(1, 1), (2, 40), (300, 190)])
def test_a_gpu_averages_as_pytorch_does(size):
    assert_averaged(frames_cuda.box, size, "cuda")
    assert_halved(frames_cuda.halve, size, "cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(1, 1), (37, 75), (200, 130)])
def test_a_gpu_compares_as_pytorch_does(size):
    assert_differing(frames_cuda.differ, size, "cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [(1, 1), (37, 75), (200, 130)])
def test_a_gpu_gathers_as_pytorch_does(dtype, size):
    assert_gathered(frames_cuda.gather, size, "cuda", dtype)


@pytest.mark.cuda
def test_a_gpu_finds_the_motion_of_a_cpu():
    left, right, _ = moving((192, 256))
    cells = in_cells(left, right)
    for found, motion in zip(find_motions(cells.cuda()), find_motions(cells), strict=True):
        away = (found.cpu() - motion).abs()
        assert away.mean() < 0.02
        assert away.median() < 1e-3
