"""The operator against its specification, on the CPU and, where there is one, on a GPU."""
# ruff: noqa: N803, N806 - N, C, H, W, K are the field's names for tensor sizes

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

import pytest
import torch

from sepconv_video.errors import DeviceError
from sepconv_video.kernels import cuda, implementations, reference, sepconv

FORWARD = torch.ops.sepconv_video.sepconv.default
BACKWARD = torch.ops.sepconv_video.sepconv_backward.default
SIZES = [  # N, C, H, W, K
    (1, 1, 1, 1, 1),
    (2, 3, 5, 64, 1),
    (3, 1, 17, 65, 5),
    (2, 3, 33, 70, 11),
    (1, 4, 16, 63, 15),
    (1, 2, 3, 129, 25),
    (1, 3, 18, 130, 51),
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Where to run; conftest.py skips what is marked `cuda` where there is no GPU."""
    return request.param


def operands(N, C, H, W, K, dtype=torch.float32, device="cpu"):  # noqa: PLR0917
    """Image, vertical and horizontal, which require gradients, and the output's gradient."""
    generator = torch.Generator().manual_seed(K)

    def sample(*shape):
        return torch.randn(shape, generator=generator).to(device, dtype)

    inputs = [sample(N, C, H + K - 1, W + K - 1), sample(N, K, H, W), sample(N, K, H, W)]
    return [tensor.requires_grad_() for tensor in inputs], sample(N, C, H, W)


def naive(image, vertical, horizontal):
    """The formula, one output element at a time."""
    N, K, H, W = vertical.shape
    out = torch.zeros(N, image.shape[1], H, W, dtype=image.dtype)
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        for i in range(K):
            for j in range(K):
                taps = vertical[n, i, y, x] * horizontal[n, j, y, x]
                out[n, c, y, x] += image[n, c, y + i, x + j] * taps
    return out


def assert_near(found, wanted, tolerance):
    assert found.shape == wanted.shape
    assert (found.double() - wanted.double()).abs().max() <= tolerance * wanted.abs().max()


def compare(inputs, grad, tolerance):
    """Compare output and gradients with the reference's, computed in float64."""
    output = sepconv(*inputs)
    assert output.dtype == inputs[0].dtype
    assert output.is_contiguous()
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted = reference.sepconv(*exact)
    assert_near(output.detach(), wanted.detach(), tolerance)
    gradients = torch.autograd.grad(output, inputs, grad)
    wanted_gradients = torch.autograd.grad(wanted, exact, grad.double())
    for tensor, like, wanted_tensor in zip(gradients, inputs, wanted_gradients, strict=True):
        assert tensor.dtype == like.dtype
        assert_near(tensor, wanted_tensor, tolerance)


def test_reference_is_the_formula():
    inputs = [tensor.detach() for tensor in operands(2, 3, 4, 5, 3, torch.float64)[0]]
    assert_near(reference.sepconv(*inputs), naive(*inputs), 1e-14)


@pytest.mark.parametrize(("N", "C", "H", "W", "K"), SIZES)
def test_agrees_with_reference(device, N, C, H, W, K):
    compare(*operands(N, C, H, W, K, device=device), 1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
)
def test_dtypes(device, dtype, tolerance):
    compare(*operands(2, 3, 9, 67, 5, dtype, device), tolerance)


def test_strides(device):
    (image, vertical, horizontal), grad = operands(2, 3, 10, 70, 5, device=device)
    with torch.no_grad():
        wide = torch.zeros(2, 3, image.shape[2], image.shape[3] + 7, device=device)
        wide[..., 3:-4] = image
        inputs = [
            wide[..., 3:-4],
            vertical.contiguous(memory_format=torch.channels_last),
            horizontal.transpose(2, 3).contiguous().transpose(2, 3),
        ]
    assert not any(tensor.is_contiguous() for tensor in inputs)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    compare(inputs, grad.sum(1, keepdim=True).expand(-1, 3, -1, -1), 1e-5)


def test_expanded_inputs(device):
    (image, vertical, horizontal), grad = operands(2, 3, 4, 4, 5, device=device)
    shared = [tensor[:1].detach().expand(2, -1, -1, -1) for tensor in (image, vertical)]
    inputs = [tensor.requires_grad_() for tensor in (*shared, horizontal.detach())]
    compare(inputs, grad, 1e-5)


def test_only_the_gradients_asked_for(device):
    (image, vertical, horizontal), grad = operands(1, 3, 4, 6, 5, device=device)
    wanted = torch.autograd.grad(sepconv(image, vertical, horizontal), vertical, grad)
    found = torch.autograd.grad(sepconv(image.detach(), vertical, horizontal), vertical, grad)
    assert torch.equal(found[0], wanted[0])
    inputs = [tensor.detach() for tensor in (image, vertical, horizontal)]
    assert BACKWARD(grad, *inputs, False)[0].shape == (0,)


def test_empty_batch(device):
    inputs, grad = operands(0, 3, 4, 6, 5, device=device)
    output = sepconv(*inputs)
    assert output.shape == (0, 3, 4, 6)
    assert [tensor.shape for tensor in torch.autograd.grad(output, inputs, grad)] == [
        tensor.shape for tensor in inputs
    ]


def test_gradcheck_of_the_reference():
    assert torch.autograd.gradcheck(reference.sepconv, operands(1, 2, 3, 4, 3, torch.float64)[0])


@pytest.mark.parametrize("K", [1, 4])
def test_gradcheck(device, K):
    inputs, _ = operands(2, 3, 3, 4, K, torch.float64, device)
    assert torch.autograd.gradcheck(sepconv, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_opcheck(device, dtype):
    inputs, grad = operands(2, 3, 6, 7, 5, dtype, device)
    tolerances = {"rtol": 1e-3, "atol": 1e-3}
    torch.library.opcheck(FORWARD, inputs, **tolerances)
    for image_needs_grad in (False, True):
        detached = [tensor.detach() for tensor in inputs]
        torch.library.opcheck(BACKWARD, (grad, *detached, image_needs_grad), **tolerances)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own modules
def test_compiles_without_graph_breaks(device):
    inputs, grad = operands(2, 3, 6, 7, 5, device=device)
    wanted = torch.autograd.grad(sepconv(*inputs), inputs, grad)
    compiled = torch.compile(sepconv, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*inputs), inputs, grad)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_is_the_same_on_every_run_and_on_any_number_of_threads():
    inputs, grad = operands(2, 3, 40, 150, 11)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads, threads):
            torch.set_num_threads(count)
            output = sepconv(*inputs)
            results.append((output, *torch.autograd.grad(output, inputs, grad)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_many_threads_may_call_it_at_once():
    inputs = [tensor.detach() for tensor in operands(1, 3, 40, 150, 11)[0]]
    wanted = sepconv(*inputs)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: sepconv(*inputs), range(16)))
    assert all(torch.equal(output, wanted) for output in found)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda i, v, h: (i[0], v, h), ValueError, r"found image \(3, 8, 9\)"),
        (lambda i, v, h: (i, v[:, :4], h), ValueError, r"vertical \(1, 4, 4, 5\), horizontal"),
        (lambda i, v, h: (i, v[:, :0], h[:, :0]), ValueError, r"with K >= 1"),
        (lambda i, v, h: (i[..., :-1], v, h), ValueError, r"\(1, C, 8, 9\).*\(1, 3, 8, 8\)"),
        (lambda i, v, h: (i.expand(2, -1, -1, -1), v, h), ValueError, r"found \(2, 3, 8, 9\)"),
        (lambda i, v, h: (i, v.double(), h), TypeError, "found float32, float64, float32"),
        (lambda i, v, h: (i.int(), v.int(), h.int()), TypeError, "found int32, int32, int32"),
        (lambda i, v, h: (i, v.to("meta"), h), ValueError, "found cpu, meta, cpu"),
    ],
)
def test_refuses(change, error, message):
    inputs, _ = operands(1, 3, 4, 5, 5)
    with pytest.raises(error, match=message):
        sepconv(*change(*(tensor.detach() for tensor in inputs)))


def test_implementations():
    found = implementations()
    assert list(found) == ["reference", "cpu", "cuda"]
    assert found["reference"] == found["cpu"] == "ok"
    assert (found["cuda"] == "ok") or not torch.cuda.is_available()


@pytest.mark.parametrize(("version", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13")])
def test_no_cupy_names_the_package_to_install(monkeypatch, version, extra):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(DeviceError, match="CuPy cannot be imported") as caught:
        cuda.check(99)  # a device whose kernels no other test has compiled
    assert caught.value.hint == f'pip install "sepconv-video[{extra}]"'


@pytest.mark.parametrize(
    ("device", "message", "error"),
    [
        (98, "CUDA_ERROR_OUT_OF_MEMORY: out of memory", RuntimeError),
        (97, "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image", DeviceError),
    ],
)
def test_out_of_memory_when_a_kernel_is_loaded_is_not_taken_for_a_broken_cupy(
    monkeypatch, device, message, error
):
    cupy = MagicMock()
    cupy.RawModule.return_value.get_function.side_effect = RuntimeError(message)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(error, match=message):
        cuda.check(device)


def test_imports_neither_numba_nor_cupy_nor_dynamo_before_they_are_needed():
    code = (
        "import sys, torch, sepconv_video.kernels as kernels\n"
        "assert not {'numba', 'cupy'} & set(sys.modules)\n"
        "kernels.sepconv(*[torch.ones(1, 1, 2, 2)] * 3)\n"
        "assert 'numba' in sys.modules\n"
        "assert not {'cupy', 'torch._dynamo'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
