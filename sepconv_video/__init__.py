"""Raise a video's frame rate with adaptive separable convolution.

from pathlib import Path
from sepconv_video import Job, Options, interpolate_file, load_model

interpolate_file(Job(source=Path("in.mp4"), target=Path("out.mp4")), Options(factor=4))
middle = load_model("fast")(left, right)  # (N, 3, H, W), RGB in [0, 1]
"""

from typing import TYPE_CHECKING

from sepconv_video.errors import (
    BusyError,
    DeviceError,
    Interrupted,
    OptionsError,
    SepConvVideoError,
    VideoError,
    WeightsError,
)
from sepconv_video.options import Job, Options

if TYPE_CHECKING:
    from sepconv_video.pipeline import interpolate_file
    from sepconv_video.report import Report
    from sepconv_video.weights import load_model

__version__ = "0.1.0"

__all__ = [
    "BusyError",
    "DeviceError",
    "Interrupted",
    "Job",
    "Options",
    "OptionsError",
    "Report",
    "SepConvVideoError",
    "VideoError",
    "WeightsError",
    "interpolate_file",
    "load_model",
]

_HEAVY = {"Report": "report", "interpolate_file": "pipeline", "load_model": "weights"}


def __getattr__(name: str) -> object:
    """Import what needs torch on first use only: `sepconv-video --help` shall be instant."""
    if name not in _HEAVY:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
