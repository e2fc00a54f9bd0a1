"""The operator as PyTorch sees it: checks, registration, gradients and shapes.

The arithmetic lives in `cpu` and `cuda`, which are imported on the first call for their device,
as numba and cupy take their time. Backward is an operator of its own, so that `torch.compile`
can trace through it.
"""

import sys
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.errors import DeviceError
from sepconv_video.timing import busy

HALF_OR_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = (*HALF_OR_SINGLE, torch.float64)

Gradients = tuple[Tensor, Tensor, Tensor]  # of image, vertical, horizontal


def sepconv(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Filter every pixel of a padded image with its own separable kernel.

    out[n, c, y, x] = sum_ij image[n, c, y+i, x+j] * vertical[n, i, y, x] * horizontal[n, j, y, x]
    (Niklaus et al., ICCV 2017, section 3). Once differentiable in all three arguments. An infinite
    or NaN image value may reach a few pixels more than the formula says, as taps are padded.

    Args:
        image: (N, C, H+K-1, W+K-1), any strides; float32, float16, bfloat16 or float64.
        vertical: Coefficients along y, (N, K, H, W); dtype and device of `image`.
        horizontal: Coefficients along x, (N, K, H, W); dtype and device of `image`.

    Returns:
        (N, C, H, W), contiguous; sums are kept in float32 whatever the dtype (float64 in float64).
        On GPUs with matrix instructions, bfloat16 with 17 to 57 taps has the range of float16.

    Raises:
        TypeError: A dtype is not supported, or dtypes differ.
        ValueError: A shape does not fit, or devices differ.
        DeviceError: The tensors are on a GPU and CuPy is missing or does not work.
    """
    _check_kinds(image=image, vertical=vertical, horizontal=horizontal)
    _check_shapes(image, vertical, horizontal)
    result: Tensor = torch.ops.sepconv_video.sepconv(image, vertical, horizontal)
    return result


def sepconv_pair(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None = None) -> Tensor:
    """Filter two padded frames, each as `sepconv` does, and add or blend the results.

    weight * sepconv(left, v1, h1) + (1 - weight) * sepconv(right, v2, h2), or without `weight`
    their plain sum (Niklaus et al., ICCV 2017, equation 1), where v1, h1, v2, h2 are the four
    quarters of `taps`. Taps at half resolution are enlarged bilinearly on the way, as
    `F.interpolate(taps, scale_factor=2, mode="bilinear", align_corners=False)` would.
    Once differentiable in all arguments. Precision and range are those of `sepconv`.

    Args:
        left: (N, C, H+K-1, W+K-1), any strides; float32, float16, bfloat16 or float64.
        right: As `left`.
        taps: (N, 4*K, H, W), or (N, 4*K, H/2, W/2) for even H and W: K each for vertical and
            horizontal of `left`, then of `right`; dtype and device of `left`.
        weight: The left frame's share, (N, 1, H, W) in the dtype of `left`, or None.

    Returns:
        (N, C, H, W), contiguous; sums are kept in float32 whatever the dtype (float64 in float64).

    Raises:
        TypeError: A dtype is not supported, or dtypes differ.
        ValueError: A shape does not fit, or devices differ.
        DeviceError: The tensors are on a GPU and CuPy is missing or does not work.
    """
    _check_kinds(left=left, right=right, taps=taps, weight=weight)
    _check_pair_shapes(left, right, taps, weight)
    result: Tensor = torch.ops.sepconv_video.sepconv_pair(left, right, taps, weight)
    return result


def planar(maps: Tensor, result: Tensor) -> Tensor:
    """Lay maps out as the operator wants its taps: one after the other.

    Args:
        maps: (N, C, H, W), any strides, any floating dtype.
        result: What they are written to, in its dtype: (N, C, H, W), all but the first dimension
            contiguous; on the device of `maps`.

    Returns:
        `result`; differentiable.
    """
    differentiate = torch.is_grad_enabled() and maps.requires_grad
    if maps.is_cuda and is_interleaved(maps) and not differentiate:
        from sepconv_video.kernels import cuda  # noqa: PLC0415 - cupy is heavy

        return cuda.planar(maps, result)
    if is_known_to_a_cpu(maps, result.dtype) and not differentiate:
        from sepconv_video.kernels import planar_cpu  # noqa: PLC0415 - numba takes a second

        return planar_cpu.planar(maps, result)
    return result.copy_(maps)


def is_interleaved(maps: Tensor) -> bool:
    """Whether the channels of a pixel lie side by side, and pixels at equal distances."""
    return maps.stride(1) == 1 and maps.stride(2) == maps.shape[3] * maps.stride(3)


def is_known_to_a_cpu(maps: Tensor, dtype: torch.dtype) -> bool:
    """Whether maps lie where our own code can lay them out, in `dtype`."""
    is_known = dtype == torch.float32 and maps.dtype in (torch.float32, torch.bfloat16)
    return maps.is_cpu and is_known


def implementations() -> dict[str, str]:
    """Tell which implementations work here.

    Returns:
        For each of "reference", "cpu" and "cuda": "ok", or the reason why it cannot be used.
    """
    return {"reference": "ok", "cpu": _try_cpu(), "cuda": _try_cuda()}


def notes() -> list[str]:
    """Say what keeps the operators in use from being as fast as they might be, one line each."""
    vectors = sys.modules.get("sepconv_video.kernels.vectors")  # imported where it is of use
    if vectors is None or not vectors.not_kept:
        return []
    return [
        "kernels are compiled at each start, as numba has no folder to keep them in: set "
        "`NUMBA_CACHE_DIR` to a writable one"
    ]


def has_bf16_units() -> bool:
    """Tell whether this CPU multiplies matrices of bfloat16 many times as fast as of float32.

    Those with AMX (Intel since 2023) do. AVX512-BF16 is twice as fast at best, and so is our own
    code for float32; on others PyTorch's bf16 is many times slower.
    """
    from llvmlite import binding  # type: ignore[import-untyped]  # noqa: PLC0415 - heavy

    features: dict[str, bool] = binding.get_host_cpu_features()
    return features.get("amx-bf16", False)


def _try_cpu() -> str:
    try:
        import numba  # noqa: F401, PLC0415 - heavy
    except ImportError as error:
        return f"numba cannot be imported: {error}"
    return "ok"


def _try_cuda() -> str:
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    from sepconv_video.kernels import cuda  # noqa: PLC0415 - cupy is heavy

    try:
        cuda.check(torch.cuda.current_device())
    except DeviceError as error:
        return f"{error.message} (hint: {error.hint})"
    return "ok"


def _check_kinds(**named: Tensor | None) -> None:
    tensors = {name: tensor for name, tensor in named.items() if tensor is not None}
    *others, last = tensors
    names = f"{', '.join(others)} and {last}"
    dtypes = [tensor.dtype for tensor in tensors.values()]
    if dtypes[0] not in DTYPES or len(set(dtypes)) > 1:
        raise TypeError(
            f"{names} must share one dtype of float32, float16, bfloat16, "
            f"float64; found {', '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)}"
        )
    devices = [tensor.device for tensor in tensors.values()]
    if len(set(devices)) > 1:
        raise ValueError(
            f"{names} must be on one device; found {', '.join(str(device) for device in devices)}"
        )


def _check_shapes(image: Tensor, vertical: Tensor, horizontal: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (image, vertical, horizontal)]
    found = "image {}, vertical {}, horizontal {}".format(*shapes)
    if any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            f"image must be (N, C, H+K-1, W+K-1), the coefficients (N, K, H, W); found {found}"
        )
    if vertical.shape != horizontal.shape or vertical.shape[1] < 1:
        raise ValueError(
            f"vertical and horizontal must both be (N, K, H, W) with K >= 1; found {found}"
        )
    N, K, H, W = vertical.shape
    if image.shape[0] != N or image.shape[2] != H + K - 1 or image.shape[3] != W + K - 1:
        raise ValueError(
            f"image must be ({N}, C, {H + K - 1}, {W + K - 1}) for coefficients "
            f"{shapes[1]}; found {shapes[0]}"
        )


def _check_pair_shapes(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None) -> None:
    shapes = [tuple(tensor.shape) for tensor in (left, right, taps)]
    found = "left {}, right {}, taps {}".format(*shapes)
    if any(len(shape) != 4 for shape in shapes) or shapes[0] != shapes[1]:
        raise ValueError(f"left and right must both be (N, C, H+K-1, W+K-1); found {found}")
    N, K, H, W = _pair_sizes(left, taps)
    if taps.shape[1] % 4 or min(K, H, W) < 1:
        raise ValueError(f"taps must be (N, 4*K, H, W) with K >= 1, H, W >= 1; found {found}")
    halved = [(N, 4 * K, H // 2, W // 2)] if H % 2 == W % 2 == 0 else []
    allowed = [(N, 4 * K, H, W), *halved]
    if shapes[2] not in allowed:
        raise ValueError(
            f"taps must be {' or '.join(map(str, allowed))} for frames {shapes[0]}; "
            f"found {shapes[2]}"
        )
    if weight is not None and tuple(weight.shape) != (N, 1, H, W):
        raise ValueError(f"weight must be {(N, 1, H, W)}; found {tuple(weight.shape)}")


def _pair_sizes(left: Tensor, taps: Tensor) -> tuple[int, int, int, int]:
    """N, K, H and W of a call of `sepconv_pair`."""
    K = taps.shape[1] // 4
    return left.shape[0], K, left.shape[2] - K + 1, left.shape[3] - K + 1


def kernels_for(tensor: Tensor, name: str) -> Any:  # noqa: ANN401 - a module
    """The module `NAME_cuda` or `NAME_cpu` for the device that a tensor is on.

    Imported on first use, as cupy and numba take a second.
    """
    return import_module(f"sepconv_video.kernels.{name}_{'cuda' if tensor.is_cuda else 'cpu'}")


# Not `torch.library.custom_op`: its first call imports all of torch._dynamo, which takes seconds.
torch.library.define(
    "sepconv_video::sepconv",
    "(Tensor image, Tensor vertical, Tensor horizontal) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sepconv_video::sepconv_backward",
    "(Tensor grad, Tensor image, Tensor vertical, Tensor horizontal, bool image_needs_grad)"
    " -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sepconv_video::sepconv_pair",
    "(Tensor left, Tensor right, Tensor taps, Tensor? weight) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def _compose_pair(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None) -> Tensor:
    """What `sepconv_pair` equals; the source of its gradients."""
    if taps.shape[2:] != _pair_sizes(left, taps)[2:]:
        taps = F.interpolate(taps, scale_factor=2, mode="bilinear", align_corners=False)
    vertical1, horizontal1, vertical2, horizontal2 = taps.chunk(4, dim=1)
    first: Tensor = torch.ops.sepconv_video.sepconv(left, vertical1, horizontal1)
    second: Tensor = torch.ops.sepconv_video.sepconv(right, vertical2, horizontal2)
    return first + second if weight is None else weight * first + (1 - weight) * second


def _forward_cpu(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    from sepconv_video.kernels import cpu  # noqa: PLC0415 - numba takes a second to import

    with busy("operator"):
        return cpu.forward(image, vertical, horizontal)


def _backward_cpu(
    grad: Tensor, image: Tensor, vertical: Tensor, horizontal: Tensor, image_needs_grad: bool
) -> Gradients:
    from sepconv_video.kernels import cpu  # noqa: PLC0415 - numba takes a second to import

    return cpu.backward(grad, image, vertical, horizontal, image_needs_grad)


def _forward_cuda(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    from sepconv_video.kernels import cuda  # noqa: PLC0415

    with busy("operator", image.device):
        return cuda.forward(image, vertical, horizontal)


def _backward_cuda(
    grad: Tensor, image: Tensor, vertical: Tensor, horizontal: Tensor, image_needs_grad: bool
) -> Gradients:
    from sepconv_video.kernels import cuda  # noqa: PLC0415

    return cuda.backward(grad, image, vertical, horizontal, image_needs_grad)


def _pair_cpu(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None) -> Tensor:
    from sepconv_video.kernels import cpu  # noqa: PLC0415 - numba takes a second to import

    with busy("operator"):
        return cpu.forward_pair(left, right, taps, weight)


def _pair_cuda(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None) -> Tensor:
    from sepconv_video.kernels import cuda  # noqa: PLC0415

    with busy("operator", left.device):
        return cuda.forward_pair(left, right, taps, weight)


def _forward_shape(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    N, _, H, W = vertical.shape
    return image.new_empty((N, image.shape[1], H, W))


def _backward_shapes(
    grad: Tensor, image: Tensor, vertical: Tensor, horizontal: Tensor, image_needs_grad: bool
) -> Gradients:
    grad_image = image.new_empty(image.shape if image_needs_grad else (0,))
    return grad_image, vertical.new_empty(vertical.shape), horizontal.new_empty(horizontal.shape)


def _pair_shape(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None) -> Tensor:
    N, _, H, W = _pair_sizes(left, taps)
    return left.new_empty((N, left.shape[1], H, W))


def _save(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs)


def _differentiate(
    ctx: Any,  # noqa: ANN401 - PyTorch makes it up
    grad: Tensor,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the three gradients; the image's, a third of the work, only where it is asked for."""
    needs = bool(ctx.needs_input_grad[0])
    gradients: Gradients = torch.ops.sepconv_video.sepconv_backward(grad, *ctx.saved_tensors, needs)
    return gradients[0] if needs else None, gradients[1], gradients[2]


def _differentiate_pair(
    ctx: Any,  # noqa: ANN401 - PyTorch makes it up
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Recompute the composition, this time with its parts kept, and differentiate that."""
    needs = ctx.needs_input_grad
    inputs: list[Any] = [
        None if tensor is None else tensor.detach().requires_grad_(need)
        for tensor, need in zip(ctx.saved_tensors, needs, strict=True)
    ]
    with torch.enable_grad():
        output = _compose_pair(*inputs)
    asked = [tensor for tensor, need in zip(inputs, needs, strict=True) if need]
    gradients = iter(torch.autograd.grad(output, asked, grad))
    return tuple(next(gradients) if need else None for need in needs)


torch.library.impl("sepconv_video::sepconv", "cpu", _forward_cpu)
torch.library.impl("sepconv_video::sepconv_backward", "cpu", _backward_cpu)
torch.library.impl("sepconv_video::sepconv", "cuda", _forward_cuda)
torch.library.impl("sepconv_video::sepconv_backward", "cuda", _backward_cuda)
torch.library.register_fake("sepconv_video::sepconv", _forward_shape)
torch.library.register_fake("sepconv_video::sepconv_backward", _backward_shapes)
torch.library.register_autograd("sepconv_video::sepconv", _differentiate, setup_context=_save)
torch.library.impl("sepconv_video::sepconv_pair", "cpu", _pair_cpu)
torch.library.impl("sepconv_video::sepconv_pair", "cuda", _pair_cuda)
torch.library.register_fake("sepconv_video::sepconv_pair", _pair_shape)
torch.library.register_autograd(
    "sepconv_video::sepconv_pair", _differentiate_pair, setup_context=_save
)
