"""`cuda.py` and `sepconv*.cu` without a GPU: the kernel compiled for the CPU by the C++ compiler.

Only CuPy is replaced, by a stub that compiles with `emulation.cpp` instead of NVRTC and launches
on CPU tensors. Everything else is the code that runs on a GPU.
"""
# ruff: noqa: N803 - N, C, H, W, K are the field's names for tensor sizes

import contextlib
import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_convolution import assert_enlarged, assert_rectified
from test_cpu import assert_laid_out
from test_light import PRECISION, assert_held, assert_normalised, assert_relit
from test_motion import (
    WARPINGS,
    assert_averaged,
    assert_differing,
    assert_gathered,
    assert_halved,
    assert_matched,
    assert_warped,
    moving,
    steps_in_pytorch,
    steps_on_a_gpu,
)
from test_taps import assert_shaped, shape_for_frames

from sepconv_video.devices import frames_dtype
from sepconv_video.errors import DeviceError
from sepconv_video.kernels import (
    convolution_cuda,
    cuda,
    frames_cuda,
    light_cuda,
    motion_cuda,
    reference,
)

COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="NOT TESTED: the CUDA kernel in emulation, as there is no g++ here"
)
HOPPER, TURING = 227 * 1024, 64 * 1024  # bytes of shared memory that a block may ask for


class EmulatedKernel:
    """Stands in for `cupy.RawKernel`."""

    def __init__(self, library, name):
        self.library = library
        self.name = name

    def __call__(self, grid, block, arguments, shared_mem):
        assert block == (32, 4, 1)
        (packed,) = arguments
        assert packed.size == 1  # or CuPy would refuse to pass it by value
        status = self.library.launch(
            self.name.encode(),
            (ctypes.c_uint * 3)(*grid),
            ctypes.c_size_t(shared_mem),
            ctypes.c_void_p(packed.ctypes.data),
        )
        assert status == 0, "no such kernel" if status == 1 else "wrote past its shared memory"


class EmulatedModule:
    """Stands in for `cupy.RawModule`."""

    def __init__(self, code, folder, options):
        path = folder / ("".join(options).replace("=", "") + ".so")
        if not path.exists():
            source = path.with_suffix(".cu")
            source.write_text(code)
            command = [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
            # ends the process at loads that are not aligned, which a GPU refuses, and the like
            command += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
            command += ["-Wno-unknown-pragmas", "-Wno-unused-function", f'-DSOURCE="{source}"']
            command += [str(Path(__file__).with_name("emulation.cpp")), "-o", str(path), *options]
            subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(path))

    def get_function(self, name):
        return EmulatedKernel(self.library, name)


@pytest.fixture(scope="module")
def build_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture
def emulate(build_folder, monkeypatch):
    """Return a function that makes `cuda` run here, as on a GPU of such a kind."""
    stub = SimpleNamespace(
        RawModule=lambda code, options: EmulatedModule(code, build_folder, options),
        cuda=SimpleNamespace(Device=lambda index: contextlib.nullcontext()),
    )

    def start(limit=HOPPER, capability=75):
        monkeypatch.setattr(cuda, "_cupy", lambda: stub)
        monkeypatch.setattr(cuda, "current_stream", lambda index: contextlib.nullcontext())
        monkeypatch.setattr(cuda, "_shared_limit", lambda index: limit)
        monkeypatch.setattr(cuda, "_capability", lambda index: capability)

    yield start
    for cached in (cuda._module, cuda.function, cuda._kernel, motion_cuda._kernel):
        cached.cache_clear()


def operands(N, C, H, W, K, dtype=torch.float32):
    generator = torch.Generator().manual_seed(K)

    def sample(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    image = sample(N, C, H + K - 1, W + K - 1)
    return image, sample(N, K, H, W), sample(N, K, H, W), sample(N, C, H, W)


def expected(image, vertical, horizontal, grad):
    """Output and gradients of the reference, in float64."""
    inputs = [tensor.double().requires_grad_() for tensor in (image, vertical, horizontal)]
    output = reference.sepconv(*inputs)
    return output.detach(), torch.autograd.grad(output, inputs, grad.double())


def assert_near(found, wanted, tolerance):
    assert found.shape == wanted.shape
    assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def compare(image, vertical, horizontal, grad, tolerance=1e-5):
    output, gradients = expected(image, vertical, horizontal, grad)
    assert_near(cuda.forward(image, vertical, horizontal), output, tolerance)
    found = cuda.backward(grad, image, vertical, horizontal, True)
    for tensor, wanted in zip(found, gradients, strict=True):
        assert tensor.dtype == image.dtype
        assert_near(tensor, wanted, tolerance)


@pytest.mark.parametrize(
    ("N", "C", "H", "W", "K"),
    [
        (1, 1, 1, 1, 1),
        (2, 1, 18, 33, 1),
        (1, 3, 17, 31, 5),
        (1, 2, 16, 32, 5),  # whole blocks; fewer channels than the launch could take
        (2, 3, 19, 37, 11),
        (1, 4, 9, 35, 25),
        (1, 3, 7, 40, 51),
    ],
)
def test_agrees_with_reference(emulate, N, C, H, W, K):
    emulate()
    compare(*operands(N, C, H, W, K))


def test_more_channels_than_one_launch_takes(emulate):
    emulate()
    compare(*operands(1, 6, 5, 34, 25))


def test_fewer_channels_a_launch_where_shared_memory_is_small(emulate):
    emulate(limit=TURING)
    compare(*operands(1, 3, 5, 34, 51))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float64, 1e-13)],
)
def test_dtypes(emulate, dtype, tolerance):
    emulate()
    compare(*operands(1, 3, 9, 35, 5, dtype), tolerance)


def test_half_precision_rounds_to_nearest(emulate):
    emulate()
    ones = torch.ones(1, 1, 4, 500)
    values = torch.linspace(-3, 3, 2000).reshape(1, 1, 4, 500)
    for dtype in (torch.float16, torch.bfloat16):
        scale = torch.tensor(1.1, dtype=dtype)
        found = cuda.forward(values.to(dtype), ones.to(dtype) * scale, ones.to(dtype))
        wanted = (values.to(dtype).float() * scale.float()).to(dtype)
        assert torch.equal(found, wanted)


def test_strides(emulate):
    emulate()
    image, vertical, horizontal, grad = operands(2, 3, 10, 33, 5)
    wide = torch.zeros(2, 3, image.shape[2], image.shape[3] + 7)
    wide[..., 3:-4] = image
    inputs = (
        wide[..., 3:-4],
        vertical.contiguous(memory_format=torch.channels_last),
        horizontal.transpose(2, 3).contiguous().transpose(2, 3),
        grad.sum(1, keepdim=True).expand(-1, 3, -1, -1),
    )
    assert not any(tensor.is_contiguous() for tensor in inputs)
    compare(*inputs)


def test_skips_the_gradient_of_the_image(emulate):
    emulate()
    image, vertical, horizontal, grad = operands(1, 1, 3, 3, 1)
    grad_image, grad_vertical, _ = cuda.backward(grad, image, vertical, horizontal, False)
    assert grad_image.shape == (0,)
    assert_near(grad_vertical, (grad * image * horizontal).double(), 1e-6)


def test_empty(emulate):
    emulate()
    image, vertical, horizontal, grad = operands(0, 3, 4, 4, 5)
    assert cuda.forward(image, vertical, horizontal).shape == (0, 3, 4, 4)
    assert cuda.backward(grad, image, vertical, horizontal, True)[0].shape == (0, 3, 8, 8)


def test_too_many_taps(emulate):
    emulate(limit=TURING)
    with pytest.raises(DeviceError, match=r"301 taps .* the device has 65536"):
        cuda.forward(*operands(1, 1, 2, 2, 301)[:3])


AMPERE = {"limit": 99 * 1024, "capability": 86}


def pair(N, C, H, W, K, *, half=False, blend=True, dtype=torch.float32):
    """Two frames of random noise around a half, taps and, with `blend`, a weight."""
    generator = torch.Generator().manual_seed(K)

    def sample(*shape):
        return torch.randn(shape, generator=generator)

    frames = [0.5 + sample(N, C, H + K - 1, W + K - 1) for _ in range(2)]
    taps = sample(N, 4 * K, H // (1 + half), W // (1 + half))
    weight = sample(N, 1, H, W).sigmoid().to(dtype) if blend else None
    return *(tensor.to(dtype) for tensor in (*frames, taps)), weight


def composition(left, right, taps, weight):
    """The specification of a pair, in float64."""
    taps = taps.double()
    if taps.shape[2] + taps.shape[1] // 4 - 1 != left.shape[2]:
        taps = F.interpolate(taps, scale_factor=2, mode="bilinear", align_corners=False)
    vertical1, horizontal1, vertical2, horizontal2 = taps.chunk(4, 1)
    first = reference.sepconv(left.double(), vertical1, horizontal1)
    second = reference.sepconv(right.double(), vertical2, horizontal2)
    if weight is None:
        return first + second
    return weight.double() * first + (1 - weight.double()) * second


@pytest.mark.parametrize(
    ("sizes", "half", "blend"),
    [
        ((1, 1, 1, 1, 1), False, True),
        ((2, 3, 2, 2, 5), True, False),
        ((2, 3, 18, 34, 5), True, True),
        ((1, 4, 22, 66, 11), True, True),
        ((2, 3, 19, 37, 11), False, False),
        ((1, 3, 6, 40, 51), True, True),
        ((1, 3, 7, 33, 51), False, False),
    ],
)
def test_pair_agrees_with_the_composition(emulate, sizes, half, blend):
    emulate()
    inputs = pair(*sizes, half=half, blend=blend)
    assert_near(cuda.forward_pair(*inputs), composition(*inputs), 1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float64, 1e-13)],
)
def test_pair_dtypes(emulate, dtype, tolerance):
    emulate()
    inputs = pair(1, 3, 10, 36, 5, half=True, dtype=dtype)
    assert_near(cuda.forward_pair(*inputs), composition(*inputs), tolerance)


def test_pair_strides(emulate):
    emulate()
    left, right, taps, weight = pair(2, 3, 10, 34, 5, half=True)
    inputs = (
        left.contiguous(memory_format=torch.channels_last),
        right.transpose(2, 3).contiguous().transpose(2, 3),
        taps.contiguous(memory_format=torch.channels_last),
        weight[..., :1].expand(-1, -1, -1, 34),
    )
    assert_near(cuda.forward_pair(*inputs), composition(*inputs), 1e-5)


def test_matrix_instruction_agrees_with_a_matrix_product(emulate, build_folder):
    emulate()
    left, right = torch.randn(16, 16).half(), torch.randn(16, 8).half()
    start = torch.randn(16, 8)
    packed = torch.empty(32, 10, dtype=torch.int32)
    # as PTX draws it: a in quarters of 8x8, b in halves; a lane has two neighbours of each row of
    # a quarter, of each column of a half
    quarters = [left[:8, :8], left[8:, :8], left[:8, 8:], left[8:, 8:]]
    halves = [right[:8].T, right[8:].T]
    for place, part in enumerate((*quarters, *halves)):
        packed[:, place] = part.contiguous().view(torch.int32).reshape(32)
    packed[:, 6:8] = start[:8].reshape(32, 2).view(torch.int32)
    packed[:, 8:] = start[8:].reshape(32, 2).view(torch.int32)
    result = torch.empty(32, 4)
    variant = cuda.Variant("forward_tensor", "HALF", 51, 3)
    kernel = EmulatedModule(cuda.source(), build_folder, cuda.options(variant)).get_function(
        "multiply_once"
    )
    words = cuda.arguments((None,) * 3 + (packed[None, None],), result, (0,) * 4)
    cuda.launch(kernel, (1, 1, 1), words, 0)
    found = torch.cat((result[:, :2].reshape(8, 8), result[:, 2:].reshape(8, 8)))
    torch.testing.assert_close(found, start + left.float() @ right.float())


@pytest.mark.parametrize(
    ("sizes", "half", "blend"),
    [
        ((1, 1, 1, 1, 17), False, True),
        ((2, 3, 18, 34, 25), True, True),
        ((1, 4, 5, 66, 51), False, True),
        ((1, 1, 21, 33, 51), False, False),
        ((1, 3, 33, 37, 51), False, False),
        ((1, 6, 3, 5, 50), False, True),
    ],
)
def test_matrix_instructions_agree_with_the_composition(emulate, sizes, half, blend):
    emulate(**AMPERE)
    inputs = pair(*sizes, half=half, blend=blend, dtype=torch.float16)
    assert_near(cuda.forward_pair(*inputs), composition(*inputs), 1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrix_instructions_with_one_frame_and_strides(emulate, dtype):
    emulate(**AMPERE)
    image, vertical, horizontal, _ = operands(1, 3, 10, 35, 25, dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    vertical = vertical.transpose(2, 3).contiguous().transpose(2, 3)
    wanted = reference.sepconv(image.double(), vertical.double(), horizontal.double())
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert_near(cuda.forward(image, vertical, horizontal), wanted, tolerance)


def picture(generator, H, W):
    """Shades at all scales, as pictures have them, with sharp edges, in [0, 1]."""
    spectrum = torch.fft.rfft2(torch.randn(1, 3, H, W, generator=generator))
    rows, columns = torch.fft.fftfreq(H)[:, None], torch.fft.rfftfreq(W)
    shades = torch.fft.irfft2(spectrum / ((rows**2 + columns**2).sqrt() + 0.02), s=(H, W))
    shades = 0.6 * (shades - shades.amin()) / (shades.amax() - shades.amin())
    edges = (torch.rand(1, 3, -(-H // 9), -(-W // 7), generator=generator) > 0.5).float() * 0.4
    return shades + F.interpolate(edges, (H, W), mode="nearest")


def natural_taps(generator, N, K, H, W):
    """Bumps of any place and width with some ripple; each quarter sums to about one."""
    place = torch.rand(4, 1, H, W, generator=generator) * K
    width = torch.rand(4, 1, H, W, generator=generator) * 8 + 0.5
    taps = torch.exp(-(((torch.arange(K)[:, None, None] - place) / width) ** 2))
    taps += 0.02 * torch.randn(4, K, H, W, generator=generator)
    return (taps / taps.sum(1, keepdim=True)).reshape(1, 4 * K, H, W)


def test_precision_of_matrix_instructions_on_pictures(emulate):
    generator = torch.Generator().manual_seed(1)
    left, right = (picture(generator, 16 + 50, 96 + 50) for _ in range(2))
    inputs = left, right, natural_taps(generator, 1, 51, 16, 96), torch.full((1, 1, 16, 96), 0.5)
    wanted = composition(*inputs)
    emulate(**AMPERE)
    found = cuda.forward_pair(*(tensor.half() for tensor in inputs))
    levels = 255 * (found.double() - wanted).abs()
    print(f"error in 8-bit levels: mean {levels.mean():.4f}, max {levels.max():.4f}")
    assert levels.mean() < 0.05
    assert levels.max() < 0.5


@pytest.mark.parametrize("size", [(16, 32), (37, 75), (1, 3)])
def test_motion_is_corrected_and_chosen_as_in_pytorch(emulate, size):
    emulate()
    given = moving(size)
    for ours, torchs in zip(steps_on_a_gpu(*given), steps_in_pytorch(*given), strict=True):
        assert_near(ours, torchs.double(), 1e-4)


@pytest.mark.parametrize("size", [(9, 19), (1, 3)])
def test_cells_are_matched_as_in_pytorch(emulate, size):
    emulate()
    assert_matched(motion_cuda.match, *moving(size))


@pytest.mark.parametrize("how", WARPINGS)
@pytest.mark.parametrize("size", [(1, 1), (37, 75)])
def test_frames_are_warped_as_in_pytorch(emulate, how, size):
    emulate()
    for dtype in (torch.float32, torch.float16):
        assert_warped(frames_cuda.warp, how, size, dtype=dtype)


@pytest.mark.parametrize("size", [(1, 1), (37, 75)])
def test_frames_are_gathered_and_compared_as_in_pytorch(emulate, size):
    emulate()
    assert_gathered(frames_cuda.gather, size)
    assert_differing(frames_cuda.differ, size)
    assert_averaged(frames_cuda.box, size)
    assert_halved(frames_cuda.halve, size)


@pytest.mark.parametrize("dtype", PRECISION)
def test_what_follows_a_convolution_is_as_in_pytorch(emulate, dtype):
    emulate()
    assert_rectified(convolution_cuda.rectify, dtype)
    assert_enlarged(convolution_cuda.add_enlarged, dtype)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 40)])
def test_taps_are_shaped_as_in_pytorch(emulate, monkeypatch, dtype, size):
    emulate()

    def shape(maps, change):
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "is_cuda", True)
            return shape_for_frames(maps, change)

    assert_shaped(shape, dtype, size)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7)])
def test_light_is_as_in_pytorch(emulate, dtype, size):
    emulate()
    assert_normalised(light_cuda.normalise, dtype, size)
    for factor in (1, 2, 8):
        assert_relit(light_cuda.relight, dtype, size, factor)
    for factor in (2, 8):
        assert_held(light_cuda.hold, dtype, size, factor)


@pytest.mark.parametrize("dtype", cuda.STORAGE)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (23, 37)])
def test_maps_are_laid_out_as_in_pytorch(emulate, dtype, size):
    emulate()
    assert_laid_out(cuda.planar, dtype, size)


@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("fast", torch.float32, 0.01),
        ("fast", torch.float16, 0.5),
        ("fast", torch.bfloat16, 2),
        ("fine", torch.float32, 0.01),
    ],
)
def test_our_networks_make_the_picture_of_a_cpu(emulate, monkeypatch, name, dtype, most):
    """All that a GPU does otherwise, one thing after the other; in 8-bit levels."""
    from sepconv_video.models import aligned
    from sepconv_video.models.bending import Known
    from sepconv_video.weights import load_model

    generator, model = torch.Generator().manual_seed(3), load_model(name)
    shades = picture(generator, 100, 140)
    pair = [shades[..., 2:98, 4:132].clone(), shades[..., :96, :128].clone()]
    # something small that moves far
    small = torch.rand(3, 16, 16, generator=generator).round()
    pair[0][..., 40:56, 20:36] = pair[1][..., 44:60, 70:86] = small

    def made(frames):
        found = model.look(*frames)
        earlier, later = (found._replace(motion=share * found.motion) for share in (0.5, 1.5))
        return model(*frames, known=Known(found, model.bend(earlier, found, later)))

    with torch.inference_mode():
        wanted = made(pair)
        emulate()
        monkeypatch.setattr(torch.Tensor, "is_cpu", False)
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        monkeypatch.setattr(aligned, "sepconv_pair", cuda.forward_pair)
        model.to(dtype)
        found = made([frame.to(frames_dtype(dtype)) for frame in pair])
    levels = 255 * (found.float() - wanted).abs()
    print(f"{name}, {dtype}: mean {levels.mean():.4f}, max {levels.max():.4f} level")
    assert levels.mean() < most / 5
    assert levels.max() < most
