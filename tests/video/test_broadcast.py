"""Transport streams as they are recorded from television."""

import shutil
import subprocess
from fractions import Fraction
from itertools import pairwise

import av
import pytest
from clips import ClipSpec, make_clip
from making import make

from sepconv_video.errors import VideoError
from sepconv_video.video import Reader

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="NO FFMPEG HERE"
)

PACKET = 188
PMT, VIDEO = 0x1000, 0x100  # packet identifiers that FFmpeg gives
SUBTITLING, TELETEXT = 0x59, 0x56  # descriptors of ETSI EN 300 468


def packets(path):
    """Each packet and the identifier of what it carries."""
    content = path.read_bytes()
    for start in range(0, len(content), PACKET):
        packet = bytearray(content[start : start + PACKET])
        yield packet, (packet[1] & 0x1F) << 8 | packet[2]


def checksum(section):
    """CRC-32 of MPEG: not reflected, nothing inverted at the end."""
    register = 0xFFFFFFFF
    for byte in section:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
    return register.to_bytes(4, "big")


def with_teletext(path):
    """Subtitles of DVB, in pictures, told to be teletext: no encoder here makes that."""
    made = path.with_suffix(".dvb.ts")
    text = path.with_suffix(".srt")
    text.write_text("1\n00:00:00,100 --> 00:00:00,600\nHello\n")
    with av.open(str(made), "w") as output:
        video = output.add_stream("mpeg2video", 25, width=64, height=48, pix_fmt="yuv420p")
        subtitles = output.add_stream("dvbsub")
        subtitles.metadata["language"] = "ger"
        output.start_encoding()
        for index in range(25):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
            packet = av.Packet(b"\x20\x00\x0f" + bytes(40))
            packet.stream, packet.time_base = subtitles, Fraction(1, 25)
            packet.pts = packet.dts = index
            output.mux_one(packet)
        output.mux(video.encode(None))
    content = b""
    for packet, identifier in packets(made):
        if identifier == PMT:
            section = 5  # behind the packet's head and a pointer
            end = section + 3 + ((packet[section + 1] & 0x0F) << 8 | packet[section + 2])
            place = packet.index(bytes([SUBTITLING, 8]), section, end)
            # German subtitles on page 850, and a private descriptor for the rest
            packet[place : place + 10] = bytes([TELETEXT, 5, *b"ger", 0x10, 0x50, 0x80, 1, 0])
            packet[end - 4 : end] = checksum(packet[section : end - 4])
        content += packet
    path.write_bytes(content)
    return path


def text_in(path):
    """Subtitles by the command `ffprobe`: their codec, and when and how long their packets are."""
    command = ["ffprobe", "-v", "quiet", "-select_streams", "s", "-of", "csv=p=0", "-show_entries"]
    kinds, found = (
        subprocess.run([*command, what, str(path)], check=True, capture_output=True, text=True)
        for what in ("stream=codec_name", "packet=size")
    )
    return set(kinds.stdout.split()), found.stdout.split()


def test_teletext_goes_on_in_transport_streams(tmp_path):
    source, target = with_teletext(tmp_path / "a.ts"), tmp_path / "b.ts"
    expected = text_in(source)
    assert expected[0] == {"dvb_teletext"}
    assert len(expected[1]) == 25
    notes = make(source, target).notes
    assert not any("left out" in note for note in notes)
    assert text_in(target) == expected
    with av.open(str(source)) as before, av.open(str(target)) as after:
        language = before.streams.subtitles[0].language
        assert after.streams.subtitles[0].language == language != "und"


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_teletext_that_is_lost_is_named(tmp_path, suffix):
    source = with_teletext(tmp_path / "a.ts")
    notes = make(source, tmp_path / f"b.{suffix}").notes
    assert sum("subtitle stream 1" in n and "mpegts can" in n for n in notes) == 1


def test_frames_that_come_almost_at_once_are_written(tmp_path):
    """Of a damaged clock: half way between two ticks there is none."""
    times = (*range(0, 9000, 3000), *range(9000, 9010), 12000, 15000)
    spec = ClipSpec(count=len(times), times=times, time_base=Fraction(1, 90_000), codec="ffv1")
    source, target = make_clip(tmp_path / "a.nut", spec), tmp_path / "b.ts"
    make(source, target)
    with av.open(str(target)) as file:
        shown = [frame.pts for frame in file.decode(video=0)]
    assert len(shown) == 2 * len(times)
    assert all(before < after for before, after in pairwise(shown))
    late = [pts - shown[0] - time for pts, time in zip(shown[::2], times, strict=True)]
    assert max(map(abs, late)) <= 10


def scrambled_content(path):
    """A file whose first video nobody can decode, and says so."""
    content = b""
    for packet, identifier in packets(path):
        if identifier == VIDEO:
            packet[3:] = bytes([packet[3] | 0x80]) + bytes(byte ^ 0x55 for byte in packet[4:])
        content += packet
    return content


def test_scrambled_television_is_named(tmp_path):
    source, scrambled = tmp_path / "a.ts", tmp_path / "b.ts"
    make_clip(source, ClipSpec(count=25))
    scrambled.write_bytes(scrambled_content(source))
    with pytest.raises(VideoError, match=r"its video is encrypted \(scrambled\)"):
        Reader(scrambled)


def test_of_several_programmes_one_that_can_be_decoded_is_taken(tmp_path):
    source, scrambled, target = (tmp_path / f"{name}.ts" for name in "abc")
    clips = ["testsrc2=s=64x48:r=25:d=1", "testsrc=s=96x64:r=25:d=1"]
    inputs = [word for clip in clips for word in ("-f", "lavfi", "-i", clip)]
    command = ["ffmpeg", "-v", "error", *inputs, "-map", "0", "-map", "1", "-c:v", "mpeg2video"]
    subprocess.run([*command, source], check=True)
    scrambled.write_bytes(scrambled_content(source))
    assert make(scrambled, target).frames == 50
    with Reader(source) as whole, Reader(scrambled) as rest:
        assert (whole.info.width, rest.info.width) == (64, 96)


def test_a_transport_stream_of_nothing_is_named(tmp_path):
    path = tmp_path / "a.ts"
    path.write_bytes((b"\x47\x1f\xff\x10" + bytes(184)) * 100)
    with pytest.raises(VideoError, match="it is not a video file that FFmpeg knows"):
        Reader(path)
