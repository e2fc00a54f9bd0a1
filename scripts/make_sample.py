#!/usr/bin/env python3
"""Render a short sample clip, for whoever has none at hand: hills, a wheel, sound and a cut.

python scripts/make_sample.py sample.mp4
"""

from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np

WIDTH, HEIGHT, RATE, SECONDS = 448, 256, 25, 2
SOUND_RATE = 48000
# by shot: colours at the top and the bottom of the sky; those of the hills, farthest first
SKIES = (((92, 140, 205), (236, 224, 205)), ((40, 34, 80), (240, 150, 96)))
HILLS = (
    ((128, 142, 160), (92, 122, 96), (70, 104, 52)),
    ((98, 64, 96), (72, 44, 62), (44, 30, 36)),
)


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """(height, width) smooth noise around 0, four octaves deep."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for cell in (64, 32, 12, 3):
        noise = random.random((height // cell + 2, width // cell + 2)) - 0.5
        y, x = np.arange(height) / cell, np.arange(width) / cell
        top, left = y.astype(int)[:, None], x.astype(int)[None]
        fy, fx = y[:, None] - top, x[None] - left
        upper = noise[top, left] * (1 - fx) + noise[top, left + 1] * fx
        lower = noise[top + 1, left] * (1 - fx) + noise[top + 1, left + 1] * fx
        total += cell**0.4 * (upper * (1 - fy) + lower * fy)
    return total


def landscape(scene: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """A sky (height, width, 3), and ranges of hills, farthest first: colours and skyline."""
    low, high = np.array(SKIES[scene])[:, None, None, :]
    sky = low + (high - low) * np.linspace(0, 1, HEIGHT)[:, None, None]
    sky = sky + 6 * texture(90 + scene, HEIGHT, WIDTH)[..., None]
    ranges = []
    for depth, colour in enumerate(HILLS[scene]):
        grain = texture(10 * scene + depth, HEIGHT, 3 * WIDTH)
        skyline = 100 + 45 * depth + 9 * texture(50 + 10 * scene + depth, 1, 3 * WIDTH)[0]
        ranges.append((np.array(colour) + 9 * grain[..., None], skyline))
    return sky, ranges


def picture(index: int, sky: np.ndarray, ranges: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """One frame: hills that pass the faster the nearer they are, and a wheel that rolls by."""
    frame = sky.copy()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for depth, (colours, skyline) in enumerate(ranges):
        if depth == len(ranges) - 1:
            draw_wheel(frame, x - (60 + 12 * index), y - 165, 0.24 * index)
        start = (1 + 3 * depth) * index
        shown = np.clip(y - skyline[None, start : start + WIDTH], 0, 1)[..., None]
        frame += shown * (colours[:, start : start + WIDTH] - frame)
    return np.clip(frame + 0.5, 0, 255).astype(np.uint8)


def draw_wheel(frame: np.ndarray, x: np.ndarray, y: np.ndarray, angle: float) -> None:
    """Draw a wheel of eight spokes, 45 pixels in radius, around x = y = 0."""
    radius, turn = np.hypot(x, y), np.arctan2(y, x) - angle
    to_spoke = np.abs(np.sin(4 * turn)) * radius / 4
    rim = np.clip(5 - np.abs(radius - 42), 0, 1)
    spokes = np.clip(2.5 - to_spoke, 0, 1) * np.clip(42 - radius, 0, 1)
    hub = np.clip(9 - radius, 0, 1)
    for part, colour in ((spokes, (235, 225, 200)), (rim, (150, 40, 30)), (hub, (240, 190, 60))):
        frame += part[..., None] * (np.array(colour) - frame)


def write_video(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
    """Two shots of `SECONDS / 2` each."""
    half = RATE * SECONDS // 2
    for scene in (0, 1):
        sky, ranges = landscape(scene)
        for index in range(half):
            frame = av.VideoFrame.from_ndarray(picture(index, sky, ranges), format="rgb24")
            frame.pts, frame.time_base = scene * half + index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound(container: av.container.OutputContainer, stream: av.AudioStream) -> None:
    """A tone that rises in each shot."""
    time = np.arange(SOUND_RATE * SECONDS) / SOUND_RATE
    phase = 2 * np.pi * (220 * time + 110 * (time % (SECONDS / 2)) ** 2)
    tone = (0.2 * np.sin(phase)).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = SOUND_RATE, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))  # examples as they are
@click.argument("target", type=click.Path(path_type=Path), default="sample.mp4")
def main(target: Path) -> None:
    with av.open(str(target), "w") as container:
        video = container.add_stream("libx264", RATE, options={"crf": "12"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", SOUND_RATE, layout="mono")
        write_sound(container, sound)
        write_video(container, video)
    print(f"wrote `{target}`: {WIDTH}x{HEIGHT}, {RATE} frames/s, {SECONDS} s, a cut in the middle")


if __name__ == "__main__":
    main()
