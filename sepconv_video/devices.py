"""Which device the network runs on, and in what precision."""

import torch

from sepconv_video.errors import DeviceError, OptionsError
from sepconv_video.kernels import has_bf16_units, implementations

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that works.

    `auto` is the GPU if PyTorch sees one. It is never given up silently: a GPU without a
    working CuPy is an error, as the CPU would be a hundred times slower.

    Raises:
        DeviceError: There is no such device, or it lacks CuPy.
        OptionsError: The name is none of these.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise OptionsError(f"unknown device `{name}`", "use `auto`, `cpu`, `cuda` or `cuda:N`")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        raise DeviceError(
            f"no device `{name}`: PyTorch sees {count} CUDA devices here",
            "use `--device cpu`, or run `sepconv-video --doctor` to see what is missing",
        )
    with torch.cuda.device(int(number or 0)):
        reason = implementations()["cuda"]
    if reason != "ok":
        raise DeviceError(
            f"cannot use `{name}`: {reason}", "run `sepconv-video --doctor`, or use `--device cpu`"
        )
    return torch.device("cuda", int(number or 0))


def fast_precisions(device: torch.device) -> list[str]:
    """Those of `DTYPES` in which a device is fast."""
    if device.type == "cuda":
        return list(DTYPES)
    return ["fp32", "bf16"] if has_bf16_units() else ["fp32"]


def choose_dtype(
    precision: str, device: torch.device, *, bf16_suffices: bool = True
) -> torch.dtype:
    """Turn `auto`, `fp32`, `fp16` or `bf16` into the floating type of the network.

    Args:
        precision: One of these.
        device: Where the network runs.
        bf16_suffices: Whether `auto` may take bf16 on a CPU: the network's own word.

    Raises:
        OptionsError: Half precision on a CPU where it is slower than fp32.
    """
    fast = fast_precisions(device)
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if bf16_suffices and "bf16" in fast else torch.float32
    if precision not in fast:
        raise OptionsError(
            f"`--precision {precision}` makes no sense on this CPU: it is slower than fp32",
            "leave the option out, or use `--precision fp32`",
        )
    return DTYPES[precision]


def frames_dtype(weights: torch.dtype) -> torch.dtype:
    """Say what the frames are in for a network with such weights.

    bf16 has 8 bits of precision, too few for frames: there only the features have it.
    """
    return torch.float32 if weights == torch.bfloat16 else weights
