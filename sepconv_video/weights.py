"""From a name or a file to a network that is ready to use.

Shipped weights are listed in `weights/MANIFEST.toml` with their checksum; any other file is
recognised by its keys and shapes. Nothing is ever unpickled: safetensors, or PyTorch files
with `weights_only=True`.
"""

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sepconv_video.devices import choose_device
from sepconv_video.errors import WeightsError, reason_of
from sepconv_video.models import NETWORKS
from sepconv_video.shipped import REINSTALL, ShippedModel, shipped_models, weights_file

LAYOUT = torch.channels_last
"""How a network's weights lie in memory, and with them the maps it makes: as matrix units want
them. Maps in the other layout would be copied for each convolution, and back."""
_WRAPPERS = ("average", "state_dict", "params_ema", "params", "model")
"""Keys under which training programs put the weights inside a checkpoint: averaged ones first."""


def load_model(name_or_path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Load a network, ready to be called as `middle = model(left, right)`.

    `left` and `right` are float tensors (N, 3, H, W), RGB in [0, 1] as decoded, any H and W;
    so is the result, which may leave [0, 1] by a little.

    Args:
        name_or_path: Name of a shipped model, `l1` or `lf` for the official ones of the 2017
            paper once they have been fetched, or path of a weights file, ours or official.
        device: Where the network shall live; a name may be `auto`, too.

    Returns:
        The network in float32, in evaluation mode, its weights frozen.

    Raises:
        DeviceError: There is no such device, or it cannot be used.
        OptionsError: There is no such model and no such file.
        WeightsError: The file is damaged, or holds the weights of an unknown network; or
            official weights have not been fetched.
    """
    device = choose_device(device) if isinstance(device, str) else device
    entry = shipped_models().get(str(name_or_path))
    if entry is not None:
        _verify(entry)
    path = entry.file if entry is not None else weights_file(name_or_path)
    model = _build(_read_state(path), path)
    model = model.requires_grad_(requires_grad=False).eval()
    # PyTorch's own annotations leave the layout out
    model.to(device, memory_format=LAYOUT)  # type: ignore[call-overload]
    return model


def _verify(entry: ShippedModel) -> None:
    try:
        found = hashlib.sha256(entry.file.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights of `{entry.name}`, `{entry.file}`: {reason_of(error)}",
            REINSTALL,
        ) from error
    if found != entry.sha256:
        raise WeightsError(
            f"the weights of `{entry.name}` are damaged: `{entry.file}` has the SHA-256 "
            f"{found[:16]}..., not {entry.sha256[:16]}...",
            REINSTALL,
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may contain."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols, which mean nothing to a user
            content: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    # on junk, torch's unpickler and zip reader fail with whatever they stumble over first
    except Exception as error:
        raise _unreadable(path) from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and _is_plain(value) for key, value in content.items()
    ):
        raise _unreadable(path)
    return content


def _is_plain(value: object) -> bool:
    """Tell whether it is a tensor as weights are: not quantised, sparse or without data."""
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and not (value.is_nested or value.is_meta)
    )


def _unreadable(path: Path) -> WeightsError:
    return WeightsError(
        f"cannot read weights from `{path}`: it is neither a safetensors file nor a PyTorch "
        "state dict that holds only tensors",
        "pass a `.safetensors` file or an official `network-*.pytorch` file",
    )


def _build(state: dict[str, Tensor], path: Path) -> nn.Module:
    """Find the network whose keys and shapes these are, and fill it."""
    state = {_canonical_key(key): value.float() for key, value in state.items()}
    shapes = {key: value.shape for key, value in state.items()}
    for network in NETWORKS.values():
        # not on the device `meta`, where random weights load PyTorch's compiler: a second
        model = network()
        if shapes == {key: value.shape for key, value in model.state_dict().items()}:
            _check_finite(state, path)
            model.load_state_dict(state)
            return model
    raise WeightsError(
        f"`{path}` holds weights of another network: its {len(shapes)} tensors match "
        f"none of {', '.join(f'`{name}`' for name in NETWORKS)}",
        "pass weights trained for one of these networks",
    )


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    for key, value in state.items():
        if not value.isfinite().all():
            raise WeightsError(
                f"cannot use the weights in `{path}`: `{key}` holds NaN or infinity",
                "take those of an earlier step: the training had diverged when it wrote these",
            )


def _canonical_key(key: str) -> str:
    """Bring the official names, `moduleConv1.0.weight` or `netConv1.0.weight`, to ours."""
    match = re.match(r"(?:module|net)([A-Z])(.*)", key)
    return match[1].lower() + match[2] if match else key
