"""What is kept of everything that a file may hold, per container: the table in CONTRIBUTING.md.

`pytest -s tests/video/test_kept.py` prints the table; the test fails where the committed one says
something else.
"""

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video.engine import Engine
from sepconv_video.options import Job
from sepconv_video.pipeline import interpolate_file
from sepconv_video.video import write_picture

pytestmark = pytest.mark.skipif(not shutil.which("ffprobe"), reason="NO FFPROBE HERE")

SRT = """1
00:00:00,100 --> 00:00:00,400
<i>Guten</i> Tag

2
00:00:00,500 --> 00:00:00,900
two
lines
"""
CHAPTERS = ";FFMETADATA1\ntitle=A title\nartist=Somebody\n" + "".join(
    f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={start + 500}\ntitle=part {start}\n"
    for start in (0, 500)
)


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Three sources that together hold everything: Matroska, MP4, transport stream."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "a.srt").write_text(SRT)
    (folder / "chapters.txt").write_text(CHAPTERS)
    (folder / "font.ttf").write_bytes(b"glyphs" * 50)
    write_picture(folder / "cover.png", np.full((8, 8, 3), 90, np.uint8))
    lavfi = [
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1,setsar=4/3"),
        *("-f", "lavfi", "-i", "sine=440:d=1"),
        *("-f", "lavfi", "-i", "sine=880:d=1"),
    ]
    tags = ["-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=eng"]
    tags += ["-disposition:a:1", "comment", "-metadata:s:v:0", "language=fra"]
    texts = ["-i", folder / "a.srt", "-i", folder / "chapters.txt"]
    ffmpeg(
        *lavfi, *texts, "-f", "lavfi", "-i", "testsrc=s=32x32:r=25:d=1",
        *("-map", 0, "-map", 1, "-map", 2, "-map", 3, "-map", 3, "-map", 5, "-map_metadata", 4),
        *("-c:v:0", "libx264", "-c:v:1", "mpeg4", "-c:a:0", "aac", "-c:a:1", "libmp3lame"),
        *("-c:s:0", "srt", "-c:s:1", "ass", *tags),
        *("-metadata:s:s:0", "language=eng", "-metadata:s:s:1", "language=ita"),
        *("-disposition:s:0", "forced"),
        *("-attach", folder / "font.ttf", "-metadata:s:t:0", "mimetype=font/ttf"),
        *("-attach", folder / "cover.png", "-metadata:s:t:1", "mimetype=image/png"),
        folder / "everything.mkv",
    )  # fmt: skip
    spec = ClipSpec(
        count=25,
        audio=True,
        subtitles=True,
        chapters=True,
        rotation=90,
        cover=(folder / "cover.png").read_bytes(),
        aspect=Fraction(4, 3),
        metadata={"title": "A title", "artist": "Somebody"},
    )
    make_clip(folder / "everything.mp4", spec)
    transport(folder / "everything.ts")
    return folder


def transport(path):
    """A transport stream with two kinds of data; the command line cannot make them."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", 25, width=64, height=48)
        data = [output.add_data_stream(name) for name in ("timed_id3", "klv")]
        packets = []
        for index in range(25):
            picture = np.full((72, 64), 16 + index, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            packets += video.encode(frame)
            for stream in data:
                packet = av.Packet(b"ID3\4\0\0\0\0\0\0" + bytes([index]) * 6)
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = index
                packet.is_keyframe = True
                packets.append(packet)
        packets += video.encode(None)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        output.mux(packets)


def probe(path):
    show = ["-show_streams", "-show_chapters", "-show_format", "-show_packets"]
    command = ["ffprobe", "-v", "error", "-of", "json", *show, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


CONTAINERS = ("mp4", "mov", "mkv", "webm", "avi", "ts", "m2ts", "nut")
ROWS = {
    "sound (AAC, MP3)": ("mkv", lambda seen: seen.sounds("aac", "mp3")),
    "languages": ("mkv", lambda seen: seen.languages("video", "fra", "fre")),
    "dispositions": ("mkv", lambda seen: seen.flags("subtitle", "forced", "audio", "comment")),
    "subtitles: SubRip": ("mkv", lambda seen: seen.text("Guten")),
    "subtitles: ASS": ("mkv", lambda seen: seen.second_text()),
    "subtitles: MP4 text": ("mp4", lambda seen: seen.text("line 3")),
    "second video stream": ("mkv", lambda seen: seen.codecs("video", "mpeg4")),
    "attached files (fonts)": ("mkv", lambda seen: "yes" * bool(seen.of("attachment"))),
    "cover picture": ("mkv", lambda seen: seen.flags("video", "attached_pic")),
    "timed ID3 data": ("ts", lambda seen: seen.codecs("data", "timed_id3")),
    "KLV data": ("ts", lambda seen: seen.codecs("data", "klv")),
    "chapters": ("mkv", lambda seen: seen.chapters()),
    "title and other tags": ("mkv", lambda seen: "yes" * (seen.tags.get("title") == "A title")),
    "sample aspect ratio": ("mkv", lambda seen: "yes" * (seen.of("video")[0].get(ASPECT) == "4:3")),
    "rotation": ("mp4", lambda seen: "yes" * ("rotation" in str(seen.of("video")[0]))),
}
ASPECT = "sample_aspect_ratio"
WORDS = {  # what the note says where something is left out
    "sound (AAC, MP3)": "audio stream",
    "languages": "languages",
    "dispositions": "dispositions",
    "subtitles: SubRip": "subtitle stream",
    "subtitles: ASS": "subtitle stream",
    "subtitles: MP4 text": "subtitle stream",
    "second video stream": "video stream",
    "attached files (fonts)": "attachment stream",
    "cover picture": "cover picture stream",
    "timed ID3 data": "(timed_id3)",
    "KLV data": "(klv)",
    "chapters": "chapters",
    "title and other tags": "the file's tags",
    "sample aspect ratio": "sample aspect ratio",
    "rotation": "rotation",
}


class Seen:
    """What ffprobe sees in a file; each question is answered with a cell of the table."""

    def __init__(self, path):
        self.path, self.found = path, probe(path)
        self.tags = {k.lower(): v for k, v in self.found["format"].get("tags", {}).items()}

    def of(self, kind):
        return [s for s in self.found["streams"] if s.get("codec_type") == kind]

    def codecs(self, kind, *wanted):
        names = [s.get("codec_name") for s in self.of(kind)]
        packets = [p["stream_index"] for p in self.found["packets"]]
        has_all = all(
            name in names and packets.count(self.of(kind)[names.index(name)]["index"]) >= 25
            for name in wanted
        )
        return "yes" * has_all

    def sounds(self, *wanted):
        found = sorted({stream["codec_name"] for stream in self.of("audio")})
        return self.codecs("audio", *wanted) or (self.codecs("audio", *found) and f"as {found[0]}")

    def languages(self, *_):
        found = [s.get("tags", {}).get("language") for s in self.found["streams"]]
        kept = {"deu", "ger"} & set(found) or not self.of("audio")
        return "yes" * bool(kept and {"eng"} & set(found))

    def flags(self, *wanted):
        pairs = zip(wanted[::2], wanted[1::2], strict=True)
        missing = [
            flag
            for kind, flag in pairs
            if self.of(kind) and not any(s["disposition"].get(flag) for s in self.of(kind))
        ]
        return "" if missing else "yes"

    def text(self, words, number=0):
        if len(self.of("subtitle")) <= number:
            return ""
        command = ["ffmpeg", "-v", "error", "-i", str(self.path), "-map", f"0:s:{number}"]
        done = subprocess.run(
            [*command, "-f", "srt", "-"], capture_output=True, text=True, check=True
        )
        assert words in done.stdout
        return f"as {self.of('subtitle')[number]['codec_name']}"

    def second_text(self):
        return self.text("two\nlines", 1)

    def chapters(self):
        titles = [chapter["tags"]["title"] for chapter in self.found["chapters"]]
        starts = [float(chapter["start_time"]) for chapter in self.found["chapters"]]
        return "yes" * (titles == ["part 0", "part 500"] and starts == [0, 0.5])


def average(left, right):
    return (left + right) / 2


@pytest.fixture(scope="module")
def cells(sources, tmp_path_factory):
    """Every source put into every container: the table's cells, each with the notes."""
    folder, engine, made = tmp_path_factory.mktemp("targets"), Engine(average), {}
    for source in ("mkv", "mp4", "ts"):
        for container in CONTAINERS:
            target = folder / f"{source}.{container}"
            job = Job(source=sources / f"everything.{source}", target=target)
            report = interpolate_file(job, engine=engine)
            assert report.damage is None
            made[source, container] = Seen(target), report.notes
    return {
        (name, container): (ask(made[source, container][0]) or "no", made[source, container][1])
        for name, (source, ask) in ROWS.items()
        for container in CONTAINERS
    }


def test_what_is_lost_is_noted_with_a_container_that_keeps_it(cells):
    for (name, container), (cell, notes) in cells.items():
        told = [note for note in notes if WORDS[name] in note]
        if cell == "no":
            lost = [note for note in told if "left out" in note]
            assert any(note.endswith((" can", " has")) for note in lost), (name, container)
        elif name.startswith("subtitles") and container not in {"mkv", "mp4", "mov"}:
            assert any("converted to" in note for note in told), (name, container)
        elif name.startswith("sound") and cell != "yes":
            assert any(note.endswith(" can") and "again as" in note for note in told), container


def test_the_table_of_what_is_kept(cells):
    lines = [f"| | {' | '.join(f'`.{name}`' for name in CONTAINERS)} |", "|---" * 9 + "|"]
    for name in ROWS:
        row = [cells[name, container][0] for container in CONTAINERS]
        lines.append(f"| {name} | {' | '.join(row)} |")
    found = "\n".join(lines) + "\n"
    print(f"\n{found}")
    committed = Path(__file__).parents[2] / "CONTRIBUTING.md"
    text = committed.read_text(encoding="utf-8")
    assert found in text, f"put this table into {committed.name}:\n{found}"
