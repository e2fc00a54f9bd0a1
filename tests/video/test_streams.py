"""A stretch of a source and slow motion: picture, sound, text and chapters stay in step."""

import dataclasses
import json
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sepconv_video.frames import Reading, Timeline
from sepconv_video.video import (
    Encoding,
    Reader,
    SegmentWriter,
    Track,
    container_for,
    join,
)

RATE = 48_000
FLASH_S = Fraction(6)


def make(source, target, timeline, codec=None, every=40):
    """Copy the pictures of a timeline as the pipeline would, in slow motion held ones."""
    slowdown = timeline.slowdown
    with Reader(source, Reading(timeline=timeline)) as reader:
        frames, info = list(reader.frames()), reader.info
    if container_for(source) == "avi":  # which does not say how long frames are shown
        frames = [dataclasses.replace(frame, duration=1) for frame in frames]
    track = Track(
        info,
        time_base=info.time_base,
        rate=info.rate,
        encoding=Encoding(codec=codec, container=container_for(target)),
    )
    moved = [
        dataclasses.replace(
            frame, index=index, pts=frame.pts * slowdown, duration=frame.duration * slowdown
        )
        for index, frame in enumerate(frames)
    ]
    pieces = []
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, len(moved), every):
            path = Path(folder, str(first))
            with SegmentWriter(path, track, target) as writer:
                for frame in moved[first : first + every]:
                    writer.write(frame)
                pieces.append((path, writer.finish()))
        return join(pieces, target, track, source, target, timeline)


def flash_and_click(path, *, codec="libx264", sound="aac", start=Fraction(0), bf="2"):
    """Twelve seconds of black and silence, but for a flash and a click at six."""
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, 25, width=64, height=48, options={"g": "50", "bf": bf})
        video.codec_context.time_base = Fraction(1, 25)
        audio = output.add_stream(sound, RATE, layout="mono")
        packets = []
        for index in range(300):
            level = 235 if Fraction(index, 25) == FLASH_S else 16
            picture = np.full((72, 64), 128, np.uint8)
            picture[:48] = level
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index + round(start * 25), Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        wave = np.zeros(12 * RATE, np.float32)
        click = int(FLASH_S * RATE)
        wave[click : click + 96] = 0.8
        for first in range(0, len(wave), 1024):
            part = (wave[None, first : first + 1024] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, "s16", "mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = first + round(start * RATE)
            packets += audio.encode(frame)
        packets += audio.encode(None)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        output.mux(packets)
    return path


def flash_time(path):
    """When the brightest picture of a file is shown, as FFmpeg decodes it."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        if file.format.name == "avi":
            stream.thread_type = "NONE"
        found = max(file.decode(stream), key=lambda f: f.to_ndarray(format="gray").mean())
        pts = found.dts if file.format.name == "avi" else found.pts
        return pts * found.time_base


def click_time(path, level=0.3):
    """When the first loud sample of a file is heard."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("flt", "mono", RATE)
        for frame in file.decode(audio=0):
            for part in resampler.resample(frame):
                loud = np.flatnonzero(np.abs(part.to_ndarray()[0]) > level)
                if len(loud):
                    return part.pts * part.time_base + Fraction(int(loud[0]), RATE)
    return None


def packets_of(path, kind):
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_packets", "-select_streams", kind]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["packets"]


SOURCES = {
    "mp4": ("mp4", "libx264", "aac", "2"),
    "mov": ("mov", "libx264", "pcm_s16le", "2"),
    "mkv": ("mkv", "libx264", "libopus", "2"),
    "ts": ("ts", "libx264", "aac", "2"),
    "ts mpeg2": ("ts", "mpeg2video", "mp2", "2"),
    "avi": ("avi", "mpeg4", "libmp3lame", "0"),
    "avi b-frames": ("avi", "libx264", "libmp3lame", "2"),
    "nut": ("nut", "mpeg4", "aac", "2"),
}


@pytest.fixture(scope="module", params=SOURCES)
def flashing(request, tmp_path_factory):
    suffix, codec, sound, bf = SOURCES[request.param]
    path = tmp_path_factory.mktemp("flash") / f"a.{suffix}"
    return flash_and_click(path, codec=codec, sound=sound, bf=bf)


def frames_of(path, **timeline):
    with Reader(path, Reading(timeline=Timeline(**timeline))) as reader:
        frames = list(reader.frames())
        assert reader.damage is None
        return frames, reader.info


@pytest.mark.parametrize(("start", "end"), [("4.3", "8"), ("10.98", None), (None, "0.5")])
def test_a_stretch_has_the_frames_it_has_in_the_whole(flashing, start, end):
    whole, info = frames_of(flashing)
    with av.open(str(flashing)) as file:
        first_s = Fraction(file.start_time, av.time_base)
    start_s, end_s = (None if text is None else Fraction(text) for text in (start, end))
    found, _ = frames_of(flashing, start_s=start_s, end_s=end_s)
    expected = [
        frame
        for frame in whole
        if first_s + (start_s or 0) <= frame.pts * info.time_base
        and (end_s is None or frame.pts * info.time_base < first_s + end_s)
    ]
    assert [frame.pts for frame in found] == [frame.pts for frame in expected]
    assert [frame.index for frame in found] == list(range(len(found)))
    for frame, other in zip(found, expected, strict=True):
        for plane, its in zip(frame.planes, other.planes, strict=True):
            np.testing.assert_array_equal(plane, its)
