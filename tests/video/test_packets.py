"""Packets that are copied: times as they were where FFmpeg's rules leave no doubt of them."""

import hashlib
import json
import shutil
import subprocess
from fractions import Fraction
from types import SimpleNamespace

import av
import matroska
import numpy as np
import pytest
from clips import ClipSpec, make_clip, payloads
from making import ffmpeg, make

from sepconv_video.engine import Engine
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.video.containers import can_hold, losses, refusal
from sepconv_video.video.jumps import Jumps
from sepconv_video.video.leading import Leading
from sepconv_video.video.sound import encoder_for

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="NO FFMPEG HERE"
)

PICTURE = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1"]
SOUND = ["-f", "lavfi", "-i", "sine=r=48000:d=1"]


def packets_of(path, stream):
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_packets", "-select_streams", stream]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["packets"]


def times_of(path, stream):
    return [float(packet["pts_time"]) for packet in packets_of(path, stream)]


def sound_of(path):
    """A digest of the decoded sound."""
    return hashlib.sha256(ffmpeg("-i", path, "-map", "0:a", "-f", "s32le", "-")).hexdigest()


def test_packets_shorter_than_a_tick_keep_their_times(tmp_path):
    """TrueHD has packets of 0.83 ms, and Matroska ticks of 1 ms."""
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    ffmpeg(*PICTURE, *SOUND, "-c:v", "mpeg4", "-c:a", "truehd", "-strict", -2, source)
    assert make(source, target).notes == []
    assert times_of(target, "a") == times_of(source, "a")
    assert sound_of(target) == sound_of(source)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "nut"])
def test_a_second_video_with_b_frames_keeps_its_times(tmp_path, suffix):
    """FFmpeg cannot tell when the first packets of one in Matroska are decoded."""
    source, target = tmp_path / "a.mkv", tmp_path / f"b.{suffix}"
    second = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=25:d=1"]
    ffmpeg(*PICTURE, *second, "-map", 0, "-map", 1, "-c:v", "libx264", "-bf", 3, source)
    before = packets_of(source, "v:1")
    assert "dts" not in before[0]
    assert float(before[0]["pts_time"]) < float(before[2]["pts_time"])
    assert make(source, target).notes == []
    after = packets_of(target, "v:1")
    lag = times_of(target, "v:0")[0]  # a transport stream begins later than at 0
    times = [float(packet["pts_time"]) - lag for packet in after]
    assert times == pytest.approx([float(packet["pts_time"]) for packet in before], abs=2e-5)
    known = [float(packet["dts_time"]) for packet in after if "dts_time" in packet]
    assert known == sorted(known)


@pytest.mark.parametrize("late_s", [0, 0.3], ids=["together", "sound first"])
def test_sound_goes_on_with_the_picture_where_the_clock_jumps_back(tmp_path, late_s):
    """Three recordings, one behind the other, each two seconds of picture on the same clock."""
    part, source, target = tmp_path / "a.ts", tmp_path / "b.ts", tmp_path / "c.mp4"
    picture = ["-itsoffset", late_s, "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2"]
    sound = ["-f", "lavfi", "-i", "sine=r=48000:d=2"]
    ffmpeg(*picture, *sound, "-c:v", "libx264", "-bf", 2, "-c:a", "aac", part)
    source.write_bytes(part.read_bytes() * 3)
    report = make(source, target)
    assert not any("than in the source" in note for note in report.notes)
    alone = tmp_path / "d.mp4"
    make(part, alone)
    one, three = times_of(alone, "a"), times_of(target, "a")
    wanted = [time + 2 * number for number in range(3) for time in one]
    overlap = 2 + round(late_s * 48_000 / 1024)  # sound lasts longer than the picture
    assert len(three) == len(wanted)
    for place, (time, its) in enumerate(zip(three, wanted, strict=True)):
        assert time == pytest.approx(its, abs=2e-4) or place % len(one) < overlap
    shown = sorted(times_of(target, "v"))
    assert shown[100] - shown[0] == pytest.approx(2, abs=2e-4)
    assert shown[-1] - shown[0] == pytest.approx(5.98, abs=2e-4)


def a_packet(pts, dts, stream=0):
    """In milliseconds."""
    return SimpleNamespace(
        stream=SimpleNamespace(index=stream),
        pts=pts,
        dts=dts,
        duration=40,
        time_base=Fraction(1, 1000),
    )


@pytest.mark.parametrize(
    ("come", "expected"),
    [
        ([(0, None), (120, None), (40, None), (80, 80), (240, None)], [-40, 0, 40, 80, None]),
        ([(0, -80), (120, None)], [-80, None]),
        ([(0, None), (120, None), (40, None)], [-120, -80, -40]),
        ([(0, None), (None, None)], [-80, -40]),
        ([(None, None)], [None]),
        ([], []),
    ],
)
def test_decoding_times_are_counted_back_from_what_is_known(come, expected):
    leading = Leading()
    given = [packet for pts, dts in come for packet in leading(a_packet(pts, dts))]
    given += leading(None)
    assert [packet.pts for packet in given] == [pts for pts, _ in come]
    assert [packet.dts for packet in given] == expected


def test_packets_are_not_held_for_ever():
    leading = Leading()
    given = [packet for ms in range(100) for packet in leading(a_packet(ms * 40, None))]
    assert [packet.pts for packet in given] == [ms * 40 for ms in range(100)]


PICTURE_FIRST = [(0, 0), (1, 1920), (1, None), (0, 40), (1, 1960), (1, 0), (1, 1960)]
SOUND_FIRST = [(1, 0), (1, 20), (1, None), (1, 40), (0, 0), (1, 60), (0, 40)]


@pytest.mark.parametrize(
    ("come", "expected"),
    [
        (PICTURE_FIRST, [2000, 1920, None, 2040, 1960, 2000, 3960]),
        (SOUND_FIRST, [2000, 2020, None, 2040, 2000, 2060, 2040]),
    ],
)
def test_sound_goes_by_the_picture_whichever_jumps_first(come, expected):
    """As where a broadcast was cut; picture is 0 and sound 1, in milliseconds."""
    before = [(0, ms) for ms in range(0, 2000, 40)] + [(1, 1900)]
    jumps, times = Jumps(0), []
    for stream, ms in before + come:
        times += [moved.pts for moved in jumps(a_packet(ms, ms, stream))]
    assert times[50:] == [1900, *expected]


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [("wmv", "wmav2", 48000), ("avi", "pcm_mulaw", 8000), ("flv", "adpcm_swf", 44100)],
)
def test_sound_that_matroska_has_no_name_for_is_encoded_again(tmp_path, suffix, codec, rate):
    source, target = tmp_path / f"a.{suffix}", tmp_path / "b.mkv"
    kind = "flv" if suffix == "flv" else "mpeg4"
    tone = ["-f", "lavfi", "-i", f"sine=r={rate}:d=1", "-c:v", kind, "-c:a", codec]
    ffmpeg(*PICTURE, *tone, source)
    notes = make(source, target).notes
    again = f"audio stream 1 ({codec}) encoded again as aac: matroska cannot hold it, "
    assert notes[0].startswith(again)
    raw = ["-map", "0:a", "-ac", 1, "-f", "s16le", "-"]
    before, after = (np.frombuffer(ffmpeg("-i", path, *raw), np.int16) for path in (source, target))
    assert abs(len(after) - len(before)) < 0.2 * rate
    middle = after[rate // 4 : 3 * rate // 4].astype(float)
    assert abs(int(np.abs(np.fft.rfft(middle)).argmax()) - 220) <= 1  # 440 Hz in half a second
    loudness = [float(np.std(wave[rate // 4 : 3 * rate // 4])) for wave in (before, after)]
    assert loudness[1] == pytest.approx(loudness[0], rel=0.05)


def test_sound_of_which_nothing_is_known_is_called_so(tmp_path):
    """FFmpeg reads the first seconds of a file, and this begins later."""
    source = tmp_path / "a.mpg"
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=21"]
    ffmpeg(*picture, "-itsoffset", 20, *SOUND, "-c:v", "mpeg1video", "-c:a", "mp2", source)
    with av.open(str(source)) as file:
        sound = file.streams.audio[0]
        assert not can_hold("matroska", sound)
        assert refusal("matroska", sound).endswith(
            "left out: its format is unknown, as it begins too late"
        )
        assert encoder_for("matroska", sound) is None


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
def test_sound_of_an_unknown_codec_is_left_out_with_a_note(tmp_path, suffix):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=3, audio=True))
    source.write_bytes(source.read_bytes().replace(b"mp4a", b"x4y5").replace(b"esds", b"free"))
    job = Job(source=source, target=tmp_path / f"b.{suffix}")
    report = interpolate_file(job, Options(), engine=Engine(lambda left, right: (left + right) / 2))
    assert any("(unknown codec" in note and "left out" in note for note in report.notes)


@pytest.mark.parametrize("suffix", ["mov", "nut"])
def test_data_that_ffmpeg_does_not_know_are_left_out(tmp_path, suffix):
    """As telephones' `mebx`, of which it would write a track that says nothing of them."""
    source, target = tmp_path / "a.mov", tmp_path / f"b.{suffix}"
    ffmpeg(*PICTURE, "-timecode", "01:02:03:04", "-c:v", "libx264", source)
    content = source.read_bytes()
    place = content.index(b"tmcd", content.rindex(b"stsd"))
    source.write_bytes(content[:place] + b"mebx" + content[place + 4 :])
    with av.open(str(source)) as file:
        assert [stream.type for stream in file.streams] == ["video", "data"]
    notes = make(source, target).notes
    told = "data of a kind that FFmpeg does not know left out: stream 1"
    assert sum(told in note for note in notes) == 1
    with av.open(str(target)) as file:
        assert [stream.type for stream in file.streams] == ["video"]


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mov"])
def test_sound_that_an_edit_list_hides_stays_unheard(tmp_path, suffix):
    """`-ss` with `-c copy`: sound is in the file from the key frame on, heard from 0.55 s on."""
    whole, source, target = (tmp_path / name for name in ("a.mp4", "b.mp4", f"c.{suffix}"))
    ffmpeg(*PICTURE, *SOUND, "-c:v", "libx264", "-g", 50, "-bf", 0, "-c:a", "aac", whole)
    ffmpeg("-ss", 0.55, "-i", whole, "-c", "copy", source)
    raw = ["-map", "0:a", "-f", "s16le", "-"]
    wanted = len(ffmpeg("-i", source, *raw)) / 2
    held = sum("D" in packet["flags"] for packet in packets_of(source, "a"))
    assert held > 20
    assert make(source, target).notes == []
    heard = len(ffmpeg("-i", target, *raw)) / 2
    # two packets in part or whole before 0: decoders need them
    assert wanted <= heard <= wanted + (0 if suffix == "mov" else 2 * 1024)


def test_transparency_beside_the_pictures_is_named_and_no_longer_promised(tmp_path):
    source, target = tmp_path / "a.webm", tmp_path / "b.webm"
    see_through = "format=yuva420p,colorchannelmixer=aa=0.5"
    ffmpeg(*PICTURE, "-vf", see_through, "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", source)
    assert any("alpha channel dropped" in note for note in make(source, target).notes)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert "alpha_mode" in {key.lower() for key in before.streams.video[0].metadata}
        assert "alpha_mode" not in {key.lower() for key in after.streams.video[0].metadata}


@pytest.mark.parametrize(("late_s", "suffix"), [(0.5, "avi"), (0, "avi"), (0.5, "mkv")])
def test_sound_that_an_avi_plays_too_early_is_named(tmp_path, late_s, suffix):
    source, target = tmp_path / "a.mp4", tmp_path / f"b.{suffix}"
    sound = ["-itsoffset", late_s, *SOUND, "-c:a", "libmp3lame"]
    ffmpeg(*PICTURE, *sound, "-map", 0, "-map", 1, "-c:v", "libx264", source)
    told = [note for note in make(source, target).notes if "too early" in note]
    assert len(told) == (suffix == "avi" and late_s > 0)
    assert all("matroska has" in note for note in told)
    assert times_of(target, "a")[0] == pytest.approx(0 if suffix == "avi" else late_s, abs=0.03)


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_an_avi_begins_at_once_with_its_sound_in_step(tmp_path, codec):
    """It has no times: none of presentation for B-frames, and none before 0 as AAC has."""
    source, target = tmp_path / "a.mp4", tmp_path / "b.avi"
    ffmpeg(*PICTURE, *SOUND, "-c:v", "libx264", "-c:a", "aac", "-pix_fmt", "yuv420p", source)
    make(source, target, codec=codec)
    expected = pytest.approx([index / 50 for index in range(50)], abs=1e-5)
    assert [float(packet["dts_time"]) for packet in packets_of(target, "v")] == expected
    assert shown_in(target) == expected
    # what MP4 hides before 0 would make the rest late
    assert payloads(target, "audio")[0][0] == payloads(source, "audio")[1][0]


def shown_in(path):
    """When FFmpeg shows the pictures."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", "v", "-show_entries"]
    command += ["frame=best_effort_timestamp_time", str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    return [float(f["best_effort_timestamp_time"]) for f in json.loads(done.stdout)["frames"]]


@pytest.mark.parametrize(
    ("lost", "said"),
    [({"rotation"}, "it"), ({"chapters"}, "them"), ({"chapters", "rotation"}, "them")],
)
def test_what_is_lost_is_one_thing_or_several(lost, said):
    assert f"left out: mpegts has no place for {said}, matroska has" in losses("mpegts", lost)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "mkv"])
def test_tags_that_a_container_has_no_place_for_are_named(tmp_path, suffix):
    source, target = tmp_path / "a.mkv", tmp_path / f"b.{suffix}"
    tags = ["-metadata", "title=A title", "-metadata", "DIRECTOR=Me", "-metadata", "IMDB=tt1"]
    ffmpeg(*PICTURE, "-c:v", "libx264", *tags, source)
    notes = [note for note in make(source, target).notes if "tags" in note]
    with av.open(str(target)) as file:
        kept = {key.lower() for key in file.metadata}
    assert "title" in kept
    assert ("imdb" in kept) == (suffix == "mkv")
    assert [note.split(" left out")[0] for note in notes] == (
        [] if suffix == "mkv" else ["tags DIRECTOR, IMDB"]
    )


@pytest.mark.parametrize(("rate", "shared"), [(400, 0), (1000, 19)])
def test_frames_that_matroska_gives_one_time_are_counted(tmp_path, rate, shared):
    source, target = tmp_path / "a.mp4", tmp_path / "b.mkv"
    picture = ["-f", "lavfi", "-i", f"testsrc2=s=64x48:r={rate}", "-frames:v", 20]
    ffmpeg(*picture, "-c:v", "libx264", source)
    (note,) = (note for note in make(source, target).notes if "rounded" in note)
    assert (f", {shared} of them to the time of another frame" in note) == bool(shared)
    times = times_of(target, "v")
    assert len(times) - len(set(times)) == shared


def clicks_of(path):
    """When clicks are heard, in seconds after the first picture is shown."""
    with av.open(str(path)) as file:
        video, sound = file.streams.video[0], file.streams.audio[0]
        heard, shown_s = [], float(video.start_time * video.time_base)
        for frame in file.decode(sound):
            wave = np.abs(frame.to_ndarray().astype(float)).reshape(-1, frame.samples).max(0)
            loud = np.flatnonzero(wave > (0.2 if frame.format.name.startswith("flt") else 6000))
            if len(loud):
                time_s = float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate - shown_s
                if not heard or time_s - heard[-1] > 0.1:
                    heard.append(time_s)
        return heard


@pytest.mark.parametrize(
    ("suffix", "codec", "target_suffix", "expected"),
    [
        ("mp4", "aac", "webm", "opus"),
        ("mkv", "flac", "mov", "alac"),
        ("mkv", "pcm_s16le", "ts", "aac"),
        ("mkv", "alac", "nut", "flac"),
        ("wmv", "wmav2", "nut", "aac"),
        ("wmv", "wmav2", "mp4", "aac"),
        ("mkv", "libvorbis", "avi", "aac"),
    ],
)
def test_sound_that_a_container_cannot_hold_is_encoded_again(
    tmp_path, suffix, codec, target_suffix, expected
):
    source, target = tmp_path / f"a.{suffix}", tmp_path / f"b.{target_suffix}"
    click = "if(between(mod(t,0.3),0.1,0.104),sin(2*PI*2000*t)/2,0)"
    clicks = ["-f", "lavfi", "-i", f"aevalsrc='{click}':s=48000:d=1"]
    form = ["-sample_fmt", "s16p"] if codec == "alac" else []
    ffmpeg(*PICTURE, *clicks, "-c:v", "mpeg4", "-c:a", codec, *form, source)
    report = make(source, target)
    (told,) = [note for note in report.notes if "audio" in note]
    assert f"encoded again as {expected}: " in told
    assert packets_of(target, "a")
    with av.open(str(target)) as file:
        assert file.streams.audio[0].codec_context.codec.canonical_name == expected
    before, after = clicks_of(source), clicks_of(target)
    assert len(after) == len(before) >= 3
    # AVI has no times: half a packet of AAC
    assert after == pytest.approx(before, abs=0.011 if target_suffix == "avi" else 0.002)
    if codec in {"flac", "alac"} and expected in {"flac", "alac"}:
        raw = ["-map", "0:a", "-f", "s16le", "-"]
        was, became = (ffmpeg("-i", path, *raw) for path in (source, target))
        assert became.startswith(was)
        assert len(became) - len(was) <= 2 * 48  # a tick of Matroska, in which its end is rounded


@pytest.mark.parametrize("name", ["b.m2ts", "b.MTS"])
def test_what_blu_ray_and_camcorders_have_stays_in_m2ts(tmp_path, name):
    """Sound that is not compressed, which no other container has."""
    source, target = tmp_path / "a.m2ts", tmp_path / name
    ffmpeg(*PICTURE, *SOUND, "-c:v", "libx264", "-c:a", "pcm_bluray", "-ac", 2, source)
    assert make(source, target).notes == []
    assert sound_of(target) == sound_of(source)
    assert target.read_bytes()[4] == 0x47  # packets of 192 bytes, which begin with a time


def test_subtitles_as_pictures_go_into_m2ts_but_no_second_video_or_data(tmp_path):
    text = [matroska.block(b"\x80\0\0", 40 * index, track=2) for index in range(5)]
    pictures = [matroska.block(matroska.gray(index), 40 * index) for index in range(5)]
    second = [matroska.block(matroska.gray(index), 40 * index, track=3) for index in range(5)]
    tracks = [
        matroska.video_track(),
        matroska.picture_text_track(2, b"S_HDMV/PGS"),
        matroska.video_track(identity=3),
    ]
    source, target = tmp_path / "a.mkv", tmp_path / "b.m2ts"
    clusters = [matroska.cluster(0, *blocks) for blocks in zip(pictures, text, second, strict=True)]
    source.write_bytes(matroska.matroska(tracks, clusters))
    notes = make(source, target, pix_fmt="yuv420p").notes
    assert any("video stream 2 (rawvideo" in n and n.endswith(" can") for n in notes)
    with av.open(str(target)) as file:
        assert [stream.type for stream in file.streams] == ["video", "subtitle"]
        assert file.streams[1].codec_context.name == "pgssub"


@pytest.mark.parametrize(
    ("layout", "container", "expected"),
    [
        ("5.1(side)", "webm", ("libopus", "5.1")),  # as DVDs have it; Opus wants the other one
        ("5.1(side)", "mov", ("alac", "5.1")),
        ("5.1", "m2ts", ("pcm_bluray", "5.1(side)")),
        ("4.0", "webm", ("libopus", "quad")),
        ("5.1(side)", "mpegts", ("aac", "5.1(side)")),
        ("stereo", "matroska", ("flac", "stereo")),
    ],
)
def test_channels_are_arranged_as_an_encoder_wants_them(tmp_path, layout, container, expected):
    noise = ["-f", "lavfi", "-i", f"anoisesrc=d=0.1:r=48000,aformat=channel_layouts={layout}"]
    source = tmp_path / "a.mkv"
    ffmpeg(*noise, "-c:a", "flac", source)
    with av.open(str(source)) as file:
        assert encoder_for(container, file.streams.audio[0]) == expected


def test_channels_in_an_order_of_their_own_are_copied_or_left_out(tmp_path):
    """PyAV 18.1 frees what describes them twice: the process died, sooner or later."""
    source, target = tmp_path / "a.mov", tmp_path / "b.mov"
    noise = ["-f", "lavfi", "-i", "anoisesrc=d=1:r=48000,aformat=channel_layouts=7.1"]
    ffmpeg(*PICTURE, *noise, "-c:v", "mpeg4", "-c:a", "pcm_s16le", source)
    assert make(source, target).notes == []
    assert sound_of(target) == sound_of(source)
    (note,) = make(source, tmp_path / "c.ts").notes
    assert "audio stream 1 (pcm_s16le" in note
    assert "left out: mpegts cannot hold it, " in note
    slowed = make(source, tmp_path / "d.mov", slowmo=True, stretch_sound=True).notes
    assert any("left out: no encoder takes its channels" in note for note in slowed)


@pytest.mark.parametrize("gap_ms", [-15, 0, 15, 30, 80, 150])
def test_sound_encoded_again_keeps_the_time_after_a_gap(tmp_path, gap_ms):
    """FFmpeg's filter lets 100 ms pass, unless it is told otherwise."""
    source, target = tmp_path / "a.mkv", tmp_path / "b.webm"
    with av.open(str(source), "w") as output:
        video = output.add_stream("mpeg4", 25, width=64, height=48)
        sound = output.add_stream("pcm_s16le", 48000, layout="mono")
        for _ in range(50):
            output.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        output.mux(video.encode(None))
        wave = np.zeros(48000 * 2, np.int16)
        for start in range(9600, len(wave), 24000):
            wave[start : start + 192] = 16000 * np.sin(np.arange(192) * 0.26)
        for index, start in enumerate(range(0, len(wave), 960)):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 960], "s16", "mono")
            frame.sample_rate = 48000
            frame.pts = start + (48 * gap_ms if index > 40 else 0)
            output.mux(sound.encode(frame))
    make(source, target)
    before, after = clicks_of(source), clicks_of(target)
    assert len(before) == len(after) == 4
    assert before[2] - before[1] == pytest.approx(0.5 + gap_ms / 1000, abs=0.002)
    assert after == pytest.approx(before, abs=0.022 if abs(gap_ms) < 20 else 0.002)


NOISE = ["-f", "lavfi", "-i", "nullsrc=s=320x240:r=25:d=4,geq=random(1)*255:128:128"]
"""Of which the 5 MB that FFmpeg reads at first are but a part."""
HARDLY = ["-c:v", "mpeg2video", "-q:v", 1]


def test_subtitles_of_a_dvd_that_begin_late_are_kept(tmp_path):
    """No header names them."""
    text, source, target = tmp_path / "text.mkv", tmp_path / "a.vob", tmp_path / "b.mkv"
    picture = b"\0\x20\0\x10" + bytes(28)  # it says its own length, 32
    block = matroska.cluster(0, matroska.block(picture))
    text.write_bytes(matroska.matroska([matroska.picture_text_track(1, b"S_VOBSUB")], [block]))
    late = ["-itsoffset", 3.5, "-i", text, "-map", 0, "-map", 1, "-c:s", "copy"]
    ffmpeg(*NOISE, *late, *HARDLY, source)
    with av.open(str(source)) as file:
        assert [stream.type for stream in file.streams] == ["video"]
    assert not any("left out" in note for note in make(source, target).notes)
    assert times_of(target, "s") == pytest.approx([3.5], abs=0.05)


def test_sound_of_television_that_begins_late_is_kept(tmp_path):
    source, target = tmp_path / "a.ts", tmp_path / "b.mkv"
    late = ["-itsoffset", 3.5, *SOUND, "-map", 0, "-map", 1, "-c:a", "aac", "-t", 4]
    ffmpeg(*NOISE, *late, *HARDLY, source)
    with av.open(str(source)) as file:
        assert not file.streams.audio[0].codec_context.sample_rate
    assert not any("left out" in note for note in make(source, target).notes)
    assert min(times_of(target, "a")) == pytest.approx(3.5, abs=0.05)


def test_sound_without_channels_is_left_out(tmp_path):
    source, target = tmp_path / "a.mkv", tmp_path / "b.webm"
    track = matroska.sound_track(2)
    silent = track.replace(matroska.number("9f", 1), matroska.number("9f", 0))
    assert silent != track
    pictures = [matroska.block(matroska.gray(index), 40 * index) for index in range(5)]
    sound = matroska.block(bytes(640), track=2)
    clusters = [matroska.cluster(0, sound, *pictures)]
    source.write_bytes(matroska.matroska([matroska.video_track(), silent], clusters))
    notes = make(source, target).notes
    assert any("audio stream 1" in note and "left out" in note for note in notes)
