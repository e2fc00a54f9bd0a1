"""Broken packets in mid-stream: what is good stays, at its own time, and the rest is named."""

import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video import Job, Options, interpolate_file
from sepconv_video.cli import main
from sepconv_video.engine import Engine
from sepconv_video.errors import VideoError
from sepconv_video.video import Reader

WIDE, HIGH, COUNT = 128, 96, 60
SUFFIXES = [".mp4", ".mkv", ".ts"]
KEYS = {"qp": "4", "preset": "ultrafast", "bf": "2", "g": "15", "sc_threshold": "0"}
B_FRAME = 3  # AVPictureType; lossless x264 has none
KINDS = {
    "zeros": lambda payload: bytes(len(payload)),
    "noise": lambda payload: np.random.default_rng(1).bytes(len(payload)),
    "hole": lambda payload: payload[:400] + bytes(len(payload) - 800) + payload[-400:],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undamaged clips by suffix."""
    folder = tmp_path_factory.mktemp("whole")
    spec = ClipSpec(width=WIDE, height=HIGH, count=COUNT, options=KEYS)
    return {suffix: make_clip(folder / f"a{suffix}", spec) for suffix in SUFFIXES}


def packets(path):
    with av.open(str(path)) as source:
        return [
            (packet.pos, bytes(packet), packet.pts, packet.is_keyframe)
            for packet in source.demux(video=0)
            if packet.size
        ]


def damaged(whole, path, number, kind):
    """Copy a clip and overwrite a packet's payload where it lies in the file."""
    shutil.copy(whole[path.suffix], path)
    position, payload, *_ = packets(path)[number]
    content = bytearray(path.read_bytes())
    spoilt = KINDS[kind](payload)
    if path.suffix == ".ts":
        overwrite_ts(content, position, spoilt)
    else:
        place = content.index(payload[:200], position)
        content[place : place + len(payload)] = spoilt
    path.write_bytes(content)
    return path


def overwrite_ts(content, position, spoilt):
    """Overwrite the payload of the transport packets that carry the end of a PES packet."""
    start = position + 188  # the first holds the PES header and its times, which stay
    last = position + len(spoilt)
    for packet in range(start, last - 188, 188):
        if content[packet + 3] & 0x30 == 0x10:  # payload only, no times
            content[packet + 4 : packet + 188] = spoilt[:184]


def test_the_clips_have_b_frames(whole):
    for path in whole.values():
        with av.open(str(path)) as source:
            kinds = [int(frame.pict_type) for frame in source.decode(video=0)]
        assert kinds.count(B_FRAME) > 20
        numbers = {number for number, packet in enumerate(packets(path)) if packet[3]}
        assert {0, 15, 30, 45} == numbers  # key frames, and so the groups of the test below


def read(path):
    with Reader(path) as reader:
        frames = list(reader.frames())
        return frames, reader, [frame.pts * reader.info.time_base for frame in frames]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [31, 33])  # a frame that others refer to, and a B-frame
def test_only_its_group_suffers_and_nothing_drifts(tmp_path, whole, suffix, kind, number):
    path = damaged(whole, tmp_path / f"a{suffix}", number, kind)
    frames, reader, times = read(path)
    begin = times[0]
    assert reader.damage
    # each at its own time, a lost one's neighbour is held longer; where scraps of a transport
    # stream have brought pictures out of order, one that comes too late is a tick or two on
    off_grid = [((time - begin) * 25) % 1 / 25 for time in times]
    assert max(off_grid) <= (Fraction(3, 90_000) if suffix == ".ts" else 0)
    assert times[-1] - begin == Fraction(COUNT - 1, 25)
    assert len(frames) >= COUNT - 15
    expected, _, _ = read(whole[suffix])
    intact = {
        index
        for index in range(COUNT)
        if not 30 <= index < 45 + 3  # B-frames lean on the next group's first frame
    }
    given = {round((time - begin) * 25): frame for time, frame in zip(times, frames, strict=True)}
    assert intact <= given.keys()
    for index in intact:
        for plane, own in zip(given[index].planes, expected[index].planes, strict=True):
            np.testing.assert_array_equal(plane, own)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_lost_packet_makes_its_neighbour_longer(tmp_path, suffix):
    spec = ClipSpec(count=30, width=WIDE, height=HIGH, options=KEYS | {"bf": "0", "g": "1"})
    path = tmp_path / f"a{suffix}"
    with (
        av.open(str(make_clip(tmp_path / "whole.nut", spec))) as source,
        av.open(str(path), "w") as output,
    ):
        copy = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for index, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream = copy
            if index not in {9, 10}:
                output.mux(packet)
    frames, _, times = read(path)
    expected = [Fraction(index, 25) for index in range(30) if index not in {9, 10}]
    assert [time - times[0] for time in times] == expected
    kept, _, _ = read(tmp_path / "whole.nut")
    np.testing.assert_array_equal(frames[9].planes[0], kept[11].planes[0])


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_run_over_damage_goes_on_and_says_so(tmp_path, whole, suffix):
    path = damaged(whole, tmp_path / f"a{suffix}", 31, "noise")
    frames, _, times = read(path)
    job = Job(source=path, target=tmp_path / "out.mp4")
    engine = Engine(lambda left, right: (left + right) / 2)
    report = interpolate_file(job, Options(device="cpu"), engine=engine)
    assert report.damage
    assert (report.source_frames, report.frames) == (len(frames), 2 * len(frames))
    with av.open(str(job.target)) as made:
        shown = [frame.pts * frame.time_base for frame in made.decode(video=0)]
    assert [time - shown[0] for time in shown[::2]] == [time - times[0] for time in times]


def test_the_command_line_goes_on_counts_and_says_so(whole, tmp_path, capsys):
    path = damaged(whole, tmp_path / "a.mkv", 20, "zeros")
    with pytest.raises(SystemExit) as ended:
        main([str(path), "-o", str(tmp_path / "b.mkv")])
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert "is damaged: " in shown
    assert "could not be decoded" in shown or "decoded with errors" in shown
    with av.open(str(tmp_path / "b.mkv")) as target:
        assert sum(1 for _ in target.decode(video=0)) >= 2 * (COUNT - 15)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="NO FFMPEG HERE")
@pytest.mark.parametrize("layout", ["", "+faststart", "+frag_keyframe+empty_moov"])
def test_what_is_encrypted_is_named(tmp_path, layout, whole):
    """FFmpeg decodes it to garbage, or takes it for broken."""
    sealed = tmp_path / "sealed.mp4"
    key = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "01" * 16]
    key += ["-encryption_kid", "02" * 16, *(["-movflags", layout] if layout else [])]
    command = ["ffmpeg", "-v", "error", "-i", whole[".mp4"], "-map", "0:v", "-c", "copy"]
    subprocess.run([*command, *key, sealed], check=True)
    with pytest.raises(VideoError, match="its video is encrypted"):
        Reader(sealed)
    Reader(whole[".mp4"]).close()
