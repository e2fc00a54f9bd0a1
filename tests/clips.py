"""Tiny clips made on the spot with PyAV, for tests that need a video file.

`make_clip(path, ClipSpec(...))` writes one; `picture(...)` gives the planes it wrote, so that
a lossless clip can be compared bit by bit. Independent of the package's own writer.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 44_100


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a clip is to be; the defaults are lossless and small."""

    width: int = 64
    height: int = 48
    count: int = 10
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    """Encoder options; by default libx264 and libx265 are told to be lossless."""
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None
    """Seconds per tick; None for 1/rate."""
    times: tuple[int, ...] | None = None
    """Ticks at which frames begin; None for a constant rate from 0."""
    last_duration: int | None = None
    """Ticks of the last frame; None for as long as the one before it."""
    colorspace: int = 2
    color_range: int = 0
    primaries: int = 2
    transfer: int = 2
    aspect: Fraction | None = None
    rotation: int = 0
    audio: bool = False
    subtitles: bool = False
    chapters: bool = False
    attachment: bytes = b""
    cover: bytes = b""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def ticks(self) -> Fraction:
        return self.time_base or 1 / self.rate

    @property
    def starts(self) -> tuple[int, ...]:
        if self.times is not None:
            return self.times
        step = 1 / self.rate / self.ticks
        return tuple(round(index * step) for index in range(self.count))

    @property
    def durations(self) -> tuple[int, ...]:
        starts = self.starts
        steps = [after - before for before, after in pairwise(starts)]
        one = round(1 / self.rate / self.ticks)
        last = self.last_duration or (steps[-1] if steps else one)
        return (*steps, last)

    @property
    def seconds(self) -> Fraction:
        """Length of the picture track."""
        return (self.starts[-1] + self.durations[-1] - self.starts[0]) * self.ticks


def variable_times(
    count: int, seed: int = 0, least: int = 500, most: int = 4000
) -> tuple[int, ...]:
    """Irregular times, in ticks."""
    steps = np.random.default_rng(seed).integers(least, most, count - 1)
    return (0, *(int(tick) for tick in np.cumsum(steps)))


def planes_shapes(width: int, height: int, pix_fmt: str) -> list[tuple[int, int]]:
    video_format = av.VideoFormat(pix_fmt, width, height)
    return [(part.height, part.width) for part in video_format.components if not part.is_alpha]


def picture(index: int, width: int, height: int, pix_fmt: str) -> list[np.ndarray]:
    """Planes of frame `index`: a texture that moves, with noise, over the full depth."""
    bits = av.VideoFormat(pix_fmt).components[0].bits
    top = (1 << bits) - 1
    noise = np.random.default_rng(index)
    planes = []
    for number, (rows, columns) in enumerate(planes_shapes(width, height, pix_fmt)):
        y, x = np.mgrid[0:rows, 0:columns]
        wave = np.sin((x + 2 * index) / 5 + number) + np.cos((y - index) / 7)
        values = (wave / 4 + 0.5) * top + noise.integers(-2, 3, (rows, columns))
        planes.append(np.clip(values, 0, top).astype(np.uint8 if bits == 8 else np.uint16))
    return planes


def video_frame(index: int, width: int, height: int, pix_fmt: str) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, values in zip(frame.planes, picture(index, width, height, pix_fmt), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        raw = np.ascontiguousarray(values).view(np.uint8)
        rows[:, : raw.shape[1]] = raw
    return frame


def make_clip(path: Path, spec: ClipSpec | None = None) -> Path:
    """Write a clip; the container follows the suffix."""
    spec = spec or ClipSpec()
    with av.open(str(path), "w") as output:
        output.metadata.update(spec.metadata)
        video = _add_video(output, spec)
        sound = _add_audio(output) if spec.audio else None
        texts = _add_subtitles(output) if spec.subtitles else None
        cover = None
        if spec.cover and path.suffix == ".mkv":  # in Matroska a cover is an attachment
            output.add_attachment("cover.png", "image/png", spec.cover)
        elif spec.cover:
            cover = _add_cover(output)
        if spec.attachment:
            output.add_attachment("font.ttf", "font/ttf", spec.attachment)
        if spec.chapters:
            output.set_chapters(_chapters(spec))
        packets = _video_packets(video, spec)
        packets += _audio_packets(sound, spec.seconds) if sound else []
        packets += _subtitle_packets(texts, spec.seconds) if texts else []
        packets += [_cover_packet(cover, spec.cover)] if cover else []
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        output.mux(packets)
    return path


def payloads(path: Path, kind: str) -> list[tuple[bytes, Fraction]]:
    """Packets of the first stream of a kind: payload and time in seconds."""
    with av.open(str(path)) as source:
        stream = next(s for s in source.streams if s.type == kind)
        return [
            (bytes(packet), packet.pts * packet.time_base)
            for packet in source.demux(stream)
            if packet.size
        ]


def _add_video(output, spec):
    lossless = {
        "libx264": {"qp": "0", "preset": "ultrafast", "bf": "2"},
        "libx265": {"x265-params": "lossless=1:log-level=none", "preset": "ultrafast"},
    }
    stream = output.add_stream(
        spec.codec,
        spec.rate,
        options=spec.options or lossless.get(spec.codec, {}),
        time_base=spec.ticks,
        width=spec.width,
        height=spec.height,
    )
    stream.pix_fmt = spec.pix_fmt
    context = stream.codec_context
    context.colorspace, context.color_range = spec.colorspace, spec.color_range
    context.color_primaries, context.color_trc = spec.primaries, spec.transfer
    if spec.aspect:
        context.sample_aspect_ratio = spec.aspect
    if spec.rotation:
        stream.set_display_rotation(spec.rotation)
    stream.metadata["language"] = "fra"
    return stream


def _video_packets(stream, spec):
    durations = dict(zip(spec.starts, spec.durations, strict=True))
    packets = []
    for index, start in enumerate(spec.starts):
        frame = video_frame(index, spec.width, spec.height, spec.pix_fmt)
        frame.pts, frame.time_base = start, spec.ticks
        frame.colorspace, frame.color_range = spec.colorspace, spec.color_range
        packets += stream.encode(frame)
    packets += stream.encode(None)
    for packet in packets:
        packet.duration = durations[packet.pts]
    return packets


def _add_audio(output):
    stream = output.add_stream("aac", SAMPLE_RATE, layout="mono")
    stream.metadata["language"] = "deu"
    return stream


def _audio_packets(stream, seconds):
    packets = []
    total = round(seconds * SAMPLE_RATE)
    for start in range(0, total, 1024):
        size = min(1024, total - start)
        wave = np.sin(np.arange(start, start + size) * (2 * np.pi * 440 / SAMPLE_RATE)) / 4
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        frame.time_base = Fraction(1, SAMPLE_RATE)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _add_subtitles(output):
    codec = "mov_text" if output.format.name in {"mp4", "mov"} else "subrip"
    stream = output.add_mux_stream(codec)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "eng"
    return stream


def _subtitle_packets(stream, seconds):
    packets = []
    for number, start in enumerate(range(0, int(seconds * 1000), 100)):
        text = f"line {number}".encode()
        is_mov = stream.container.format.name in {"mp4", "mov"}
        packet = av.Packet(len(text).to_bytes(2, "big") + text if is_mov else text)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = start
        packet.duration = 100
        packet.is_keyframe = True
        packets.append(packet)
    return packets


def _add_cover(output):
    stream = output.add_mux_stream("png", width=8, height=8)
    stream.disposition = av.stream.Disposition.attached_pic
    stream.time_base = Fraction(1, 1000)
    return stream


def _cover_packet(stream, png):
    packet = av.Packet(png)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = 0
    packet.is_keyframe = True
    return packet


def _chapters(spec):
    middle, end = (round(spec.seconds * 1000 * part) for part in (Fraction(1, 2), 1))
    base = Fraction(1, 1000)
    return [
        {"id": 1, "start": 0, "end": middle, "time_base": base, "metadata": {"title": "one"}},
        {"id": 2, "start": middle, "end": end, "time_base": base, "metadata": {"title": "two"}},
    ]
