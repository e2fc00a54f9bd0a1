"""`sepconv_pair` against the composition it stands for, on the CPU and, if any, on a GPU."""
# ruff: noqa: N803 - N, C, H, W, K are the field's names for tensor sizes

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.kernels import reference, sepconv_pair

PAIR = torch.ops.sepconv_video.sepconv_pair.default


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Where to run; conftest.py skips what is marked `cuda` where there is no GPU."""
    return request.param


def operands(N, C, H, W, K, *, half=False, blend=True, dtype=torch.float32, device="cpu"):
    """Left, right, taps and, with `blend`, weight: all require gradients."""
    generator = torch.Generator().manual_seed(K)

    def sample(*shape):
        values = torch.randn(shape, generator=generator).to(device, dtype)
        return values.requires_grad_()

    frames = [sample(N, C, H + K - 1, W + K - 1) for _ in range(2)]
    taps = sample(N, 4 * K, H // (1 + half), W // (1 + half))
    return [*frames, taps, sample(N, 1, H, W) if blend else None]


def composition(left, right, taps, weight):
    """The specification, written with the reference."""
    if taps.shape[1] // 4 + taps.shape[2] - 1 != left.shape[2]:
        taps = F.interpolate(taps, scale_factor=2, mode="bilinear", align_corners=False)
    vertical1, horizontal1, vertical2, horizontal2 = taps.chunk(4, 1)
    first = reference.sepconv(left, vertical1, horizontal1)
    second = reference.sepconv(right, vertical2, horizontal2)
    return first + second if weight is None else weight * first + (1 - weight) * second


def compare(inputs, tolerance):
    """Compare output and gradients with the composition's in float64."""
    output = sepconv_pair(*inputs)
    assert output.dtype == inputs[0].dtype
    assert output.is_contiguous()
    exact = [None if i is None else i.detach().double().requires_grad_() for i in inputs]
    wanted = composition(*exact)
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(wanted.shape, generator=generator).to(output.device, output.dtype)
    given = [tensor for tensor in inputs if tensor is not None]
    found = [output.detach(), *torch.autograd.grad(output, given, grad)]
    exact = [tensor for tensor in exact if tensor is not None]
    expected = [wanted.detach(), *torch.autograd.grad(wanted, exact, grad.double())]
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("blend", [True, False])
@pytest.mark.parametrize(
    ("sizes", "half"),
    [
        ((1, 1, 1, 1, 1), False),
        ((2, 3, 2, 2, 1), True),
        ((2, 1, 17, 65, 5), False),
        ((2, 3, 18, 66, 5), True),
        ((1, 3, 34, 70, 11), True),
        ((1, 4, 9, 33, 25), False),
        ((1, 3, 6, 40, 51), False),
        ((1, 3, 6, 40, 51), True),
    ],
)
def test_agrees_with_the_composition(device, sizes, half, blend):
    compare(operands(*sizes, half=half, blend=blend, device=device), 1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)],
)
def test_dtypes(device, dtype, tolerance):
    compare(operands(2, 3, 8, 66, 5, half=True, dtype=dtype, device=device), tolerance)


def test_half_precision_with_many_taps(device):  # matrix instructions, where there are any
    compare(operands(1, 3, 19, 37, 51, dtype=torch.float16, device=device), 4e-3)


def test_only_the_gradients_asked_for(device):
    left, right, taps, weight = operands(1, 3, 4, 6, 5, device=device)
    (wanted,) = torch.autograd.grad(sepconv_pair(left, right, taps, weight).sum(), taps)
    output = sepconv_pair(left.detach(), right.detach(), taps, weight.detach())
    (found,) = torch.autograd.grad(output.sum(), taps)
    assert torch.equal(found, wanted)


def test_empty_batch(device):
    assert sepconv_pair(*operands(0, 3, 4, 6, 5, half=True, device=device)).shape == (0, 3, 4, 6)


@pytest.mark.parametrize("blend", [True, False])
def test_gradcheck(device, blend):
    inputs = operands(1, 2, 4, 2, 3, half=True, blend=blend, dtype=torch.float64, device=device)
    assert torch.autograd.gradcheck(sepconv_pair, inputs)


@pytest.mark.parametrize("blend", [True, False])
def test_opcheck(device, blend):
    inputs = operands(2, 3, 6, 8, 5, half=True, blend=blend, device=device)
    torch.library.opcheck(PAIR, inputs, rtol=1e-3, atol=1e-3)  # PyTorch enlarges in two ways


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own modules
def test_compiles_without_graph_breaks(device):
    inputs = operands(2, 3, 6, 8, 5, half=True, device=device)
    wanted = torch.autograd.grad(sepconv_pair(*inputs).sum(), inputs)
    compiled = torch.compile(sepconv_pair, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*inputs).sum(), inputs)
    for one, other in zip(found, wanted, strict=True):  # the enlargement is rounded differently
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, b, t, w: (a[0], b, t, w), ValueError, r"both be .*left \(3, 10, 12\)"),
        (lambda a, b, t, w: (a, b[..., 1:], t, w), ValueError, r"right \(1, 3, 10, 11\)"),
        (lambda a, b, t, w: (a, b, t[:, :19], w), ValueError, r"taps must be \(N, 4\*K"),
        (lambda a, b, t, w: (a, b, t[:, :0], w), ValueError, "with K >= 1"),
        (
            lambda a, b, t, w: (a, b, t[..., :3], w),
            ValueError,
            r"taps must be \(1, 20, 6, 8\) or \(1, 20, 3, 4\) .* found \(1, 20, 6, 3\)",
        ),
        (lambda a, b, t, w: (a, b, t, w[0]), ValueError, r"\(1, 1, 6, 8\); found \(1, 6, 8\)"),
        (lambda a, b, t, w: (a, b, t, w.double()), TypeError, "and weight must share one dtype"),
        (lambda a, b, t, w: (a, b, t.to("meta"), w), ValueError, "found cpu, cpu, meta, cpu"),
    ],
)
def test_refuses(change, error, message):
    inputs = operands(1, 3, 6, 8, 5)
    with pytest.raises(error, match=message):
        sepconv_pair(*change(*(tensor.detach() for tensor in inputs)))
