#!/usr/bin/env python3
"""Render a short sample clip, for whoever has none at hand: texture, motion, sound, a cut.

    python scripts/make_sample.py sample.mp4
"""

from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np

WIDTH, HEIGHT, RATE, SECONDS = 448, 256, 25, 2
SOUND_RATE = 48000


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) smooth colourful noise in 0..255, three octaves deep."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell, weight in ((64, 90), (16, 50), (4, 30)):
        rows, columns = height // cell + 2, width // cell + 2
        noise = random.random((rows, columns, 3)) - 0.5
        y, x = np.arange(height) / cell, np.arange(width) / cell
        top, left = y.astype(int), x.astype(int)
        fy, fx = (y - top)[:, None, None], (x - left)[None, :, None]
        corners = [[noise[top + i][:, left + j] for j in (0, 1)] for i in (0, 1)]
        upper = corners[0][0] * (1 - fx) + corners[0][1] * fx
        lower = corners[1][0] * (1 - fx) + corners[1][1] * fx
        total += weight * 2 * (upper * (1 - fy) + lower * fy)
    return np.clip(total + random.integers(90, 166, 3), 0, 255)


def picture(index: int, scene: int, layers: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """One frame: a background that pans and a disc of another texture that circles over it."""
    background, disc = layers
    shift = 2 * index if scene == 0 else 120 - 3 * index
    frame = background[20 : 20 + HEIGHT, shift + 40 : shift + 40 + WIDTH].copy()
    angle = 0.09 * index * (1 if scene == 0 else -1)
    cx, cy = WIDTH / 2 + 110 * np.cos(angle), HEIGHT / 2 + 70 * np.sin(angle)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = np.clip(52 - np.hypot(x - cx, y - cy), 0, 1)[..., None]
    moved = disc[(y - int(cy)) % HEIGHT, (x - int(cx)) % WIDTH]
    return (frame * (1 - inside) + moved * inside + 0.5).astype(np.uint8)


def write_video(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
    """Two shots of `SECONDS / 2` each."""
    half = RATE * SECONDS // 2
    for scene in (0, 1):
        layers = texture(2 * scene, HEIGHT + 40, WIDTH + 200), texture(2 * scene + 1, HEIGHT, WIDTH)
        for index in range(half):
            frame = av.VideoFrame.from_ndarray(picture(index, scene, layers), format="rgb24")
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


@click.command(help=__doc__)
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
