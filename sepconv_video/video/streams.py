"""Copying all but the main video: audio, subtitles, data, attachments, pictures, chapters.

Packets are copied as they are, payload and times, a little ahead of the video's, so that
the file is interleaved and no more than a moment of it is in memory. Text is converted where the
container has it in another form, sound is made longer where that is wanted.
"""

from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.rational import AVRational
from av.stream import Disposition, Stream

from sepconv_video.frames import Timeline
from sepconv_video.video.containers import (
    TIMECODE_TAG,
    called,
    can_hold,
    clone,
    codec_of,
    fresh_tags,
    is_cover,
    losses,
    lost_tags,
    refusal,
    where_held,
)
from sepconv_video.video.packets import SourcePackets
from sepconv_video.video.sound import EncodedSound, encoder_for
from sepconv_video.video.source import open_source, rate_of
from sepconv_video.video.subtitles import ConvertedText, text_codec
from sepconv_video.video.timecode import relabelled

_PICTURE_FILES = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png")}

_TAKING_EQUAL_TIMES = {"matroska", "webm"}
"""FFmpeg's muxers with the flag TS_NONSTRICT: packets of a stream may be decoded at one time."""


class OtherStreams:
    """Everything in a source but its main video, on its way into an output.

    Attributes:
        main: The source's main video stream, for its tags.
        window: The stretch of the source that is used, and what its times become.
        notes: One line for each stream left out or converted and each fault mended.
        ends_s: When the sound streams end in the output so far, in seconds, by their index in
            the source.
    """

    def __init__(self, source: Path, timeline: Timeline, container: str) -> None:
        """Open `source` a second time, for demuxing only, on its way into a container."""
        self.notes: list[str] = []
        self.ends_s: dict[int, Fraction] = {}
        self._path, self._timeline, self._container = source, timeline, container
        self._source = SourcePackets(source, timeline)
        self._input: InputContainer = self._source.container
        self.main, self.window = self._source.main, self._source.window
        self._outputs: dict[int, Stream] = {}
        self._texts: dict[int, ConvertedText] = {}
        self._sounds: dict[int, EncodedSound] = {}
        self._last_dts: dict[int, int] = {}
        self._mended = 0
        self._refused = 0
        self._covers: dict[int, bytes] | None = None
        self._pending: Packet[Stream] | None = None

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def before_video(self) -> list[Stream]:
        """List the streams that precede the main video in the source."""
        return list(self._input.streams)[: self.main.index]

    def after_video(self) -> list[Stream]:
        """List the streams that follow the main video in the source."""
        return list(self._input.streams)[self.main.index + 1 :]

    def add(self, output: OutputContainer, streams: list[Stream]) -> None:
        """Declare streams in an output, noting those it cannot hold."""
        others = [stream for stream in streams if not _is_said_otherwise(stream, self._input)]
        unknown = [s.index for s in others if s.type in {"data", "unknown"} and not codec_of(s)]
        if unknown:  # telephones write several
            names = ", ".join(map(str, unknown))
            self.notes.append(f"data of a kind that FFmpeg does not know left out: stream {names}")
        for stream in others:
            if stream.index in unknown:
                continue
            if self._container == "matroska" and is_cover(stream):
                self._attach(output, stream)
            elif isinstance(stream, AudioStream) and self.window.slowdown != 1:
                self._slow_down(output, stream)
            elif can_hold(self._container, stream):
                self._outputs[stream.index] = clone(output, stream)
            else:
                self._convert(output, stream)

    def _slow_down(self, output: OutputContainer, sound: AudioStream) -> None:
        if not self._timeline.stretch_sound:
            self.notes.append(
                f"{called(sound)} left out: slow motion is silent, unless `--stretch-sound` "
                "makes the sound longer too"
            )
            return
        self._encode_again(output, sound)

    def _encode_again(self, output: OutputContainer, sound: AudioStream) -> None:
        encoder = encoder_for(self._container, sound)
        if encoder is None:
            is_held = can_hold(self._container, sound)  # in slow motion
            self.notes.append(
                f"{called(sound)} left out: no encoder takes its channels"
                if is_held
                else refusal(self._container, sound)
            )
            return
        encoded = EncodedSound(output, sound, encoder, self.window)
        self._sounds[sound.index], self._outputs[sound.index] = encoded, encoded.stream
        again, slowdown = f"encoded again as {encoded.codec}", self.window.slowdown
        self.notes.append(
            f"{called(sound)} {again}: {where_held(self._container, sound)}"
            if slowdown == 1
            else f"{called(sound)} made {slowdown} times longer and {again}"
        )

    def _convert(self, output: OutputContainer, stream: Stream) -> None:
        """Convert text and encode sound again; what else the output cannot hold is left out."""
        if isinstance(stream, AudioStream):
            self._encode_again(output, stream)
            return
        codec = text_codec(self._container, stream)
        if codec is None:
            self.notes.append(refusal(self._container, stream))
            return
        try:
            text = ConvertedText(output, stream, codec)
        except av.FFmpegError:
            self.notes.append(refusal(self._container, stream))
            return
        self._texts[stream.index], self._outputs[stream.index] = text, text.stream
        self.notes.append(text.note)

    def _attach(self, output: OutputContainer, cover: Stream) -> None:
        """Copy a cover picture into Matroska, where it is an attached file, not a stream."""
        name = cover.codec_context.name if cover.codec_context is not None else ""
        suffix, mime = _PICTURE_FILES.get(name, (name, f"image/{name}"))
        if self._covers is None:
            self._covers = _read_covers(self._path)
        if cover.index not in self._covers:
            self.notes.append(f"{called(cover)} left out: it cannot be read")
            return
        given = cover.metadata.get("filename")
        mime = cover.metadata.get("mimetype", mime)
        output.add_attachment(given or f"cover.{suffix}", mime, self._covers[cover.index])

    def copy_header(self, output: OutputContainer, *, is_turned: bool) -> None:
        """Copy the file's tags, and the chapters as far as they are in the stretch.

        What the output has no place for is noted; a turned picture among it.
        """
        output.metadata.update(fresh_tags(self._input.metadata))
        chapters = []
        for chapter in self._input.chapters():
            tick = Fraction(chapter["time_base"] or 1)
            rest = self.window.clipped(chapter["start"] * tick, chapter["end"] * tick)
            if rest is not None:
                start, end = (round(self.window.target(time_s) / tick) for time_s in rest)
                chapters.append(chapter | {"start": max(0, start), "end": end})
        if chapters:
            output.set_chapters(chapters)
        lost = losses(self._container, self._found(bool(chapters), is_turned))
        # with such tags MP4 and MOV are written so that they take all; see the joiner
        takes_all = self.has_foreign_tags() and self._container in {"mp4", "mov"}
        few = "" if takes_all else lost_tags(self._container, fresh_tags(self._input.metadata))
        self.notes += [note for note in (lost, few) if note]

    def _found(self, has_chapters: bool, is_turned: bool) -> set[str]:
        """List what there is beside streams, in the words of `losses`."""
        given = {stream.disposition for stream in self._input.streams if not is_cover(stream)}
        others = given - {Disposition.default, Disposition(0)}
        usual = Disposition.default | Disposition.forced
        found = {
            "chapters": has_chapters,
            "the file's tags": bool(fresh_tags(self._input.metadata)),
            "languages": any(s.language not in {None, "und"} for s in self._input.streams),
            "rotation": is_turned,
            "timecode": self._label() is not None,
            "dispositions": bool(others),
            "dispositions other than `default`": bool(others),
            "dispositions other than `default` and `forced`": any(each & ~usual for each in given),
        }
        return {name for name, is_there in found.items() if is_there}

    def timecode(self, rate: Fraction) -> str | None:
        """Give the label of the first frame in the stretch, at a rate; None where there is none."""
        label, window = self._label(), self.window
        if label is None:
            return None
        later_s = Fraction(0) if window.begin_s is None else window.begin_s - window.first_s
        return relabelled(label, rate_of(self.main), later_s, rate)

    def _label(self) -> str | None:
        """Find the timecode of the source's first frame."""
        tags = (*self.main.metadata.items(), *self._input.metadata.items())
        return next((tag for key, tag in tags if key.lower() == TIMECODE_TAG), None)

    def has_foreign_tags(self) -> bool:
        """Tell whether there are tags outside MP4's classic set, as cameras write them."""
        return any("." in key for key in self._input.metadata)

    def clocks(self) -> list[int]:
        """List the ticks per second of the audio streams."""
        bases = [audio.time_base for audio in self._input.streams.audio]
        return [base.denominator for base in bases if base]

    def start(self) -> None:
        """Begin to read packets; call once all streams are declared."""
        copied = {index for index, made in self._outputs.items() if made.type == "audio"}
        audible = set() if self._container in {"mp4", "mov"} else copied - set(self._sounds)
        self._source.begin(set(self._outputs), audible)

    def advance(self, output: OutputContainer, until: Fraction | None) -> None:
        """Copy packets up to a decoding time in seconds of the output; None: all that are left."""
        while (packet := self._next()) is not None:
            dts = packet.pts if packet.dts is None else packet.dts
            if until is not None and self.window.target((dts or 0) * packet.time_base) > until:
                self._pending = packet
                return
            self._take(output, packet)
        if until is None:
            for index, sound in self._sounds.items():
                for packet in sound(None):
                    self._mux(output, packet, index)
            self._tell_faults()

    def _tell_faults(self) -> None:
        if self._mended:
            self.notes.append(
                f"{self._mended} packets were earlier than the one before: moved after it"
            )
        refused = self._refused + self._source.refused
        if refused:
            self.notes.append(f"{refused} damaged packets of sound or text left out")

    def drift_notes(self, video_end_s: Fraction) -> list[str]:
        """Compare how far picture and sound end apart with how far they do in the source.

        Args:
            video_end_s: When the picture ends in the output, in seconds.

        Returns:
            A line for each sound stream whose end is off by more than a frame of the source.
        """
        source_ends, notes = self._source.ends_s, []
        if self.main.index not in source_ends:
            return []
        for index, end_s in self.ends_s.items():
            sound = self._sounds.get(index)  # which knows better than packets without a duration
            source_end_s = source_ends[index] if sound is None else sound.end_s
            apart = self.window.target(source_end_s) - self.window.target(
                source_ends[self.main.index]
            )
            drift_s = end_s - video_end_s - apart
            if abs(drift_s) > self._frame_s():
                notes.append(
                    f"{called(self._input.streams[index])} ends {abs(float(drift_s)):.3f} s "
                    f"{'later' if drift_s > 0 else 'earlier'} than in the source, relative to the "
                    "picture"
                )
        return notes

    def _next(self) -> "Packet[Stream] | None":
        held, self._pending = self._pending, None
        if held is not None:
            return held
        while (packet := self._source.next()) is not None:
            if not _is_filler(packet):
                return packet
        return None

    def _take(self, output: OutputContainer, packet: "Packet[Stream]") -> None:
        """Copy, convert or slow down a packet."""
        index = packet.stream.index
        try:
            for made in self._made_of(packet):
                self._mux(output, made, index)
        except (av.InvalidDataError, av.PatchWelcomeError):
            # e.g. a broken AAC header, which MP4 stores in another form
            self._refused += 1

    def _made_of(self, packet: "Packet[Stream]") -> "Iterable[Packet[Stream]]":
        """Turn a packet of the source into those of the output, with its times."""
        index = packet.stream.index
        if index in self._sounds:
            return self._sounds[index](packet)
        packets = self._texts[index](packet) if index in self._texts else [packet]
        return [self._moved(made, self._outputs[index]) for made in packets]

    def _moved(self, packet: "Packet[Stream]", stream: Stream) -> "Packet[Stream]":
        before, after = Fraction(packet.time_base), Fraction(stream.time_base or 1)

        def moved(ticks: int | None) -> int | None:
            return None if ticks is None else round(self.window.target(ticks * before) / after)

        packet.pts, packet.dts = moved(packet.pts), moved(packet.dts)
        packet.duration = round((packet.duration or 0) * self.window.slowdown * before / after)
        packet.time_base = after
        return packet

    def _mux(self, output: OutputContainer, packet: "Packet[Stream]", index: int) -> None:
        stream = self._outputs[index]
        assert stream.time_base is not None  # set by the muxer with the header
        # short packets have equal times where ticks are coarse, and keep them if they may
        takes_equal = self._container in _TAKING_EQUAL_TIMES
        is_timed = stream.type in {"audio", "video"} and not takes_equal
        packet.stream = stream
        packet.rescale_ts(AVRational(stream.time_base.numerator, stream.time_base.denominator))
        lowest = self._last_dts.get(stream.index)
        if packet.dts is None:
            packet.dts = packet.pts if packet.pts is not None else 0
            if stream.type == "video" and lowest is not None:
                # what is shown later may come first, and must not push those shown before it
                packet.dts = min(packet.dts, lowest + is_timed)
        if lowest is not None and packet.dts < lowest + is_timed:
            self._mended += packet.dts < lowest
            packet.dts = lowest + is_timed
        if packet.pts is None or packet.pts < packet.dts:
            packet.pts = packet.dts
        self._last_dts[stream.index] = packet.dts
        if stream.type == "audio":
            self._note_late(packet, index)
            end_s = (packet.pts + (packet.duration or 0)) * Fraction(stream.time_base)
            self.ends_s[index] = max(end_s, self.ends_s.get(index, end_s))
        output.mux_one(packet)

    def _note_late(self, packet: "Packet[Stream]", index: int) -> None:
        """Say of a sound's first packet whether an AVI, which has no times, plays it too early."""
        if self._container != "avi" or index in self.ends_s:
            return
        tick = Fraction(self.main.time_base or 1)
        begin_s = max(self.window.target((self.main.start_time or 0) * tick), Fraction(0))
        late_s = (packet.pts or 0) * Fraction(packet.time_base) - begin_s
        if late_s > self._frame_s():
            self.notes.append(
                f"{called(self._input.streams[index])} begins {float(late_s):.3f} s too early: "
                "avi has no place for a late beginning, matroska has"
            )

    def _frame_s(self) -> Fraction:
        """Say how long a frame of the source is shown in the output."""
        return self.window.slowdown / rate_of(self.main)


def _read_covers(path: Path) -> dict[int, bytes]:
    """Read all cover pictures at once, by stream: a hostile file may have hundreds."""
    found: dict[int, bytes] = {}
    with open_source(path) as source, suppress(av.FFmpegError, IndexError):
        covers = [stream for stream in source.streams if is_cover(stream)]
        for packet in source.demux(covers):
            if packet.size:
                found.setdefault(packet.stream.index, bytes(packet))
            if len(found) == len(covers):
                break
    return found


def _is_said_otherwise(stream: Stream, source: InputContainer) -> bool:
    """Tell whether a data stream of MP4 or MOV is one that their muxers write themselves.

    That is the text track holding the chapters, and the timecode track: FFmpeg has both as
    chapters and a tag, from which other containers take what they can.
    """
    if stream.type != "data" or not source.format.name.startswith("mov"):
        return False
    if stream.name == "bin_data" and source.chapters():
        return True
    return TIMECODE_TAG in stream.metadata


def _is_filler(packet: "Packet[Stream]") -> bool:
    """Tell whether a packet is an empty MP4 subtitle without duration.

    FFmpeg's muxer puts them in between by itself; copied, they would double with each copy.
    """
    context = packet.stream.codec_context
    if context is None or context.name != "mov_text" or packet.size != 2:
        return False
    return not packet.duration and bytes(packet) == b"\0\0"
