"""Raise a video's frame rate with adaptive separable convolution."""

__version__ = "0.1.0"
