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
from clips import ClipSpec, make_clip, variable_times

from sepconv_video.errors import VideoError
from sepconv_video.frames import Reading, Timeline
from sepconv_video.video import (
    Encoding,
    Reader,
    SegmentWriter,
    Track,
    container_for,
    join,
)
from sepconv_video.video.packets import SourcePackets

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


TIMELINES = {
    "stretch": Timeline(start_s=Fraction("4.3"), end_s=Fraction(8)),
    "slow": Timeline(start_s=Fraction("5.1"), end_s=Fraction(7), slowdown=2, stretch_sound=True),
}


@pytest.mark.parametrize("timeline", TIMELINES.values(), ids=TIMELINES)
def test_flash_and_click_stay_together(flashing, tmp_path, timeline):
    stay_together(flashing, tmp_path / "b.mp4", timeline)


def test_flash_and_click_stay_together_eight_times_as_slow(tmp_path):
    source = flash_and_click(tmp_path / "a.mov", sound="pcm_s16le")
    timeline = dataclasses.replace(TIMELINES["slow"], slowdown=8)
    stay_together(source, tmp_path / "b.mkv", timeline)


def stay_together(flashing, target, timeline):
    joined = make(flashing, target, timeline)
    frames, info = frames_of(flashing)
    flash = max(frames, key=lambda frame: frame.planes[0].mean())
    lag_s = click_time(flashing) - flash.pts * info.time_base
    found_s = click_time(target, 0.1) - flash_time(target)
    slowdown = timeline.slowdown
    # atempo moves whole windows of a 24th of a second, at each doubling
    slack_s = Fraction(1, 10_000) if slowdown == 1 else Fraction(slowdown, 24)
    assert abs(found_s - lag_s * slowdown) < slack_s
    assert joined.notes == [note for note in joined.notes if "times longer" in note]
    if timeline.end_s is not None and timeline.start_s is not None:
        length_s = (timeline.end_s - timeline.start_s) * slowdown
        step_s = info.time_base if info.time_base > Fraction(1, 1000) else Fraction(1, 1000)
        assert abs(Fraction(joined.video_s) - length_s) <= step_s * slowdown
        assert abs(Fraction(joined.audio_s[0]) - length_s) < Fraction("0.05") * slowdown


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_what_lies_before_a_stretch_is_not_decoded(tmp_path, suffix):
    """Nor read: here it is zeros."""
    whole = flash_and_click(tmp_path / f"a.{suffix}", sound="libmp3lame", bf="0")
    expected, _ = frames_of(whole, start_s=Fraction(9))
    content = bytearray(whole.read_bytes())
    with av.open(str(whole)) as file:
        positions = [packet.pos for packet in file.demux(video=0) if packet.size]
    content[positions[5] : positions[90]] = bytes(positions[90] - positions[5])
    broken = tmp_path / f"b.{suffix}"
    broken.write_bytes(content)
    with Reader(broken) as reader:
        assert len(list(reader.frames())) < 300 or reader.damage
    found, _ = frames_of(broken, start_s=Fraction(9))
    assert [frame.pts for frame in found] == [frame.pts for frame in expected]


@pytest.mark.parametrize(("early_s", "share"), [(1, 0.5), (-1, 1)])
def test_what_lies_long_before_a_stretch_is_not_read_for_its_sound(
    flashing, tmp_path, monkeypatch, early_s, share
):
    """As in a film, longer than reading begins early; and where seeking leads too far."""
    timeline = Timeline(start_s=Fraction("9.5"))
    make(flashing, tmp_path / "a.mkv", timeline)
    monkeypatch.setattr("sepconv_video.video.packets._EARLY_S", early_s)
    make(flashing, tmp_path / "b.mkv", timeline)
    expected, found = (packets_of(tmp_path / name, "a") for name in ("a.mkv", "b.mkv"))
    assert [(p["pts"], p["size"]) for p in found] == [(p["pts"], p["size"]) for p in expected]
    packets = SourcePackets(flashing, timeline)
    with av.open(str(flashing)) as whole, packets.container as rest:
        assert len(list(rest.demux())) <= len(list(whole.demux())) * share


def test_stretched_sound_keeps_rate_codec_language_and_pitch(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=50, audio=True))
    target = tmp_path / "b.mp4"
    notes = make(source, target, Timeline(slowdown=2, stretch_sound=True)).notes
    assert notes == ["audio stream 1 (aac, deu) made 2 times longer and encoded again as aac"]
    with av.open(str(target)) as file:
        sound = file.streams.audio[0]
        assert (sound.codec_context.name, sound.rate, sound.layout.name) == ("aac", 44100, "mono")
        assert sound.language == "deu"
        wave = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(sound)])
    spectrum = np.abs(np.fft.rfft(wave[10_000:54_100]))  # a second: one bin is one hertz
    assert abs(int(spectrum.argmax()) - 440) <= 2
    assert abs(len(wave) / 44100 - 4) < 0.05


def test_slow_motion_is_silent_unless_asked_and_says_so(tmp_path):
    spec = ClipSpec(count=50, audio=True, subtitles=True, chapters=True)
    source = make_clip(tmp_path / "a.mkv", spec)
    target = tmp_path / "b.mkv"
    joined = make(source, target, Timeline(slowdown=4))
    assert "audio stream 1 (aac, deu) left out: slow motion is silent" in joined.notes[0]
    assert "--stretch-sound" in joined.notes[0]
    assert joined.audio_s == ()
    with av.open(str(target)) as file:
        assert [stream.type for stream in file.streams] == ["video", "subtitle"]
        ends = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in file.chapters()]
        assert ends == [(0, 4), (4, 8)]
    texts = packets_of(target, "s")
    starts = [float(p["pts_time"]) for p in texts]
    np.testing.assert_allclose(starts, 0.4 * np.arange(20), atol=1e-6)
    assert {p["duration_time"] for p in texts} == {"0.400000"}
    assert joined.video_s == 8


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_text_and_chapters_are_cut_to_the_stretch(tmp_path, suffix):
    spec = ClipSpec(count=50, audio=True, subtitles=True, chapters=True)
    source = make_clip(tmp_path / f"a.{suffix}", spec)
    target = tmp_path / f"b.{suffix}"
    timeline = Timeline(start_s=Fraction("0.56"), end_s=Fraction("1.24"))
    assert make(source, target, timeline).notes == []
    spans = [
        (round(float(p["pts_time"]), 3), round(float(p["duration_time"]), 3))
        for p in packets_of(target, "s")
        if "duration_time" in p  # MP4 ends with an empty one, which clears the picture
    ]
    wanted = [(0, 0.04), *((round(0.04 + 0.1 * n, 3), 0.1) for n in range(6)), (0.64, 0.04)]
    assert spans == wanted
    with av.open(str(target)) as file:
        found = [
            (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"])
            for c in file.chapters()
        ]
    assert found == [("one", 0, Fraction("0.44")), ("two", Fraction("0.44"), Fraction("0.68"))]


def test_sound_of_a_stretch_are_the_packets_that_begin_in_it(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=50, audio=True))
    target = tmp_path / "b.mp4"
    make(source, target, Timeline(start_s=Fraction("0.56"), end_s=Fraction("1.24")))
    before = [float(p["pts_time"]) for p in packets_of(source, "a")]
    wanted = [time - 0.56 for time in before if 0.56 <= time < 1.24]
    assert np.allclose([float(p["pts_time"]) for p in packets_of(target, "a")], wanted, atol=2e-5)
    pictures = [float(p["pts_time"]) for p in packets_of(target, "v")]
    assert sorted(pictures) == [round(0.04 * n, 6) for n in range(17)]


@pytest.mark.parametrize(("start", "end"), [(20, None), (20, 21), (Fraction("0.01"), "0.02")])
def test_a_stretch_without_frames_is_refused_with_the_duration(tmp_path, start, end):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=50))
    timeline = Timeline(start_s=Fraction(start), end_s=None if end is None else Fraction(end))
    with pytest.raises(VideoError, match=r"no frame of .* begins at .*: it lasts 2 s") as caught:
        Reader(source, Reading(timeline=timeline))
    assert "--start" in caught.value.hint


def test_a_late_start_and_a_variable_rate_stay_exact(tmp_path):
    """Picture from 10 s on, at irregular times; the stretch begins between two frames."""
    times = tuple(300_000 + tick for tick in variable_times(60, seed=5))
    spec = ClipSpec(times=times, time_base=Fraction(1, 30000), last_duration=1234)
    source = make_clip(tmp_path / "a.mp4", spec)
    make(source, tmp_path / "b.mp4", Timeline(start_s=Fraction(1, 3)))
    frames, info = frames_of(tmp_path / "b.mp4")
    begin = times[0] + 10_000
    wanted = [Fraction(tick - begin, 30000) for tick in times if tick >= begin]
    assert [frame.pts * info.time_base for frame in frames] == wanted
    assert frames[-1].duration * info.time_base == Fraction(1234, 30000)


def test_lost_frames_at_the_end_are_noticed(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=50, audio=True))
    target = tmp_path / "b.mp4"
    with Reader(source) as reader:
        frames, info = list(reader.frames()), reader.info
    track = Track(
        info, time_base=info.time_base, rate=info.rate, encoding=Encoding(container="mp4")
    )
    with SegmentWriter(tmp_path / "piece", track, target) as writer:
        for frame in frames[:45]:
            writer.write(frame)
        piece = (tmp_path / "piece", writer.finish())
    joined = join([piece], target, track, source, target, Timeline())
    assert joined.notes == [
        "audio stream 1 (aac, deu) ends 0.200 s later than in the source, relative to the picture"
    ]
    assert joined.video_s == pytest.approx(1.8)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "nut", "mkv"])
def test_a_late_start_is_kept_for_picture_and_sound(tmp_path, suffix):
    """Sound from 9.98 s on, picture from 10 s, with B-frames: as ffprobe reads the packets."""
    source = flash_and_click(tmp_path / f"a.{suffix}", start=Fraction(10))
    target = tmp_path / f"b.{suffix}"
    joined = make(source, target, Timeline())
    assert joined.notes == []
    for kind in ("v", "a"):
        before = sorted(float(p["pts_time"]) for p in packets_of(source, kind))
        after = sorted(float(p["pts_time"]) for p in packets_of(target, kind))
        np.testing.assert_allclose(after, before, atol=1e-6)
    assert min(float(p["pts_time"]) for p in packets_of(target, "v")) == 10
    assert min(float(p["pts_time"]) for p in packets_of(target, "a")) == pytest.approx(
        9.98, abs=0.01
    )
    assert joined.video_s == 22
