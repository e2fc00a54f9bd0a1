"""Reading: a file in, frames in presentation order out, each plane bit-exact.

Knows PyAV and nothing of what becomes of the frames. No frame is lost silently: frames
without a usable time are given one and counted in `notes`; what could not be decoded is
counted in `damage`.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Self

import av

from sepconv_video.errors import VideoError
from sepconv_video.frames import NO_DYNAMIC, Dynamic, Frame, Reading, VideoInfo
from sepconv_video.video.boxes import presentation_end
from sepconv_video.video.clock import pts_of
from sepconv_video.video.containers import ALPHA_TAG
from sepconv_video.video.decoding import Decoder, named
from sepconv_video.video.dolby import needs_metadata
from sepconv_video.video.formats import has_alpha
from sepconv_video.video.hdr import DOLBY_TAGS, metadata_notes
from sepconv_video.video.headers import facts_of
from sepconv_video.video.interlace import Deinterlacer, Examination, Scan
from sepconv_video.video.messages import captions_of, kinds_of
from sepconv_video.video.pipes import left_out
from sepconv_video.video.source import describe, most_ticks, rate_of, tick_of
from sepconv_video.video.unpacker import Unpacker, change, form_of

_UNKNOWN_TRANSFER = 2
_HEADER_TICK = Fraction(1, 1000)


class Reader:
    """Read the main video stream of a file, once, front to back.

    The first frames are decoded on opening, because only they tell the true format, and
    whether they are interlaced.

    Attributes:
        path: The file.
        info: What is known of the stream.
        notes: One line for each thing converted, dropped or mended, for the user.
        messages: Kinds of metadata that frames given so far have, as `video.messages` names them.
    """

    def __init__(self, path: Path | str, reading: Reading | None = None) -> None:
        """Open `path`, to be read as `reading` says.

        Raises:
            VideoError: If there is no video in it that can be decoded, none of it lies in the
                timeline, or it is interlaced and not to be deinterlaced.
        """
        self.path, self.reading = Path(path), reading or Reading()
        self.notes: list[str] = []
        self._after: int | None = None  # when the first picture beyond the timeline is shown
        self._changes: list[str] = []
        self._marked = 0
        self.messages: set[str] = set()
        self._decoder = Decoder(self.path, self.reading)
        try:
            self._scan = self._examine()
            self._pictures = self._within_timeline()
            first = next(self._pictures, None)
            if first is None:
                raise self._nothing_within()
            self._first = first
            self._unpack = Unpacker(first, self.path)
            self._facts = facts_of(self._decoder.stream)
            self.info = self._describe()
            found = self._decoder.dynamic.get(pts_of(first), NO_DYNAMIC)
            self.notes += self._unpack.notes
            self.notes += self._metadata_notes(found)
            self.notes += self._alpha_notes()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; frames already given stay valid."""
        self._decoder.close()

    @property
    def damage(self) -> str | None:
        """What was broken in the stream, in one line; None if nothing. Final after `frames`."""
        return self._decoder.faults.summary

    @property
    def left_out(self) -> str:
        """The source's streams that do not go through a pipe, in one line; empty if none."""
        container, stream = self._decoder.container, self._decoder.stream
        return left_out(container, stream, "only pictures go through a pipe")

    def frames(self, first: int = 0) -> Iterator[Frame]:
        """Give the frames in presentation order, with strictly increasing `pts`.

        Those before index `first` are decoded, for only so is each frame certainly the same
        whatever the file, but not given.

        A frame without a time follows after as long as the one before it. A frame that is
        not later than its predecessor is placed one tick after it; after a jump back of
        more than a second the times go on from there. Both are counted in `notes`.

        Where size or format change in mid-stream, frames are scaled and converted to the
        first one's, with a note. Of the timeline, only frames that begin within it are given
        and counted.

        May be iterated once.

        Raises:
            VideoError: If a picture cannot be converted.
        """
        held: Frame | None = None
        form = form_of(self._first)
        try:
            for index, picture in enumerate(chain([self._first], self._pictures)):
                if held is not None:
                    yield held
                before, form = form, form_of(picture, form)
                if form != before:
                    self._changes.append(f"{change(before, form)} at frame {index}")
                dynamic = self._kept(self._decoder.dynamic.pop(pts_of(picture), None))
                if index < first:
                    continue
                held = Frame(
                    index=index,
                    pts=pts_of(picture),
                    duration=picture.duration,
                    planes=self._unpack(picture),
                    captions=captions_of(picture),
                    dynamic=dynamic,
                    begins_shot=form != before,
                )
                self.messages |= kinds_of(held)
            if held is not None:
                yield replace(held, duration=self._last_duration(held))
        finally:
            self.notes += self._decoder.notes + self._change_notes() + self._field_notes()

    def _kept(self, found: Dynamic | None) -> Dynamic:
        """Give what can be kept of a picture's HDR metadata."""
        hdr10_plus, dolby = found or NO_DYNAMIC
        return Dynamic(hdr10_plus, dolby if self.info.dolby is not None else b"")

    def _metadata_notes(self, found: Dynamic) -> list[str]:
        """Name what cannot be kept of the metadata `found` of the first picture, and of others."""
        stream, first = self._decoder.stream, self._first
        record = self._facts.dolby
        is_tagged = stream.codec_context.codec_tag in DOLBY_TAGS
        return metadata_notes(
            first,
            self._kept(found),
            is_dolby=bool(record or found.dolby_vision or is_tagged),
            # what has no usual colours says nothing of them, either
            needs_dolby=needs_metadata(record) if record else first.color_trc == _UNKNOWN_TRANSFER,
        )

    def _examine(self) -> Scan:
        """Decode the first pictures until it is clear how they were scanned."""
        stream = self._decoder.stream
        order, rate = stream.codec_context.field_order, rate_of(stream)
        examination = Examination(self._decoder.first, order, rate)
        for picture in self._decoder.look_ahead():
            if not examination.add(picture):
                break
        scan = examination.scan()
        if scan.interlaced and not self.reading.deinterlace:
            raise scan.refuse(self.path)
        return scan

    @property
    def _deinterlaces(self) -> bool:
        """Whether fields may become pictures: not where the marks are known to be wrong."""
        return self.reading.deinterlace and (self._scan.interlaced or not self._scan.marked)

    @property
    def _tick(self) -> Fraction:
        tick = tick_of(self._decoder.stream)
        return tick / 2 if self._deinterlaces else tick

    def _within_timeline(self) -> Iterator[av.VideoFrame]:
        """Give the pictures of the timeline; and remember what comes after."""
        window, tick = self._decoder.window, self._tick
        for picture in self._whole_pictures():
            time_s = pts_of(picture) * tick
            if window.is_before(time_s):
                # what lacks what it was made from, between a seek and the stretch, is no damage
                self._decoder.faults.forget()
                continue
            if window.is_after(time_s):
                self._after = picture.pts
                return
            yield picture

    def _whole_pictures(self) -> Iterator[av.VideoFrame]:
        """Give the pictures, deinterlaced if that is wanted."""
        if not self._deinterlaces:
            return self._counted()
        return Deinterlacer(self._scan, self.path).pictures(self._counted())

    def _counted(self) -> Iterator[av.VideoFrame]:
        for picture in self._decoder.pictures():
            self._marked += picture.interlaced_frame
            yield picture

    def _nothing_within(self) -> VideoError:
        timeline, length = self.reading.timeline, self._decoder.container.duration
        start_s, end_s = timeline.start_s or Fraction(0), timeline.end_s
        until = "" if end_s is None else f" and before {float(end_s):g} s"
        lasts = f": it lasts {length / av.time_base:g} s" if length else ""
        return VideoError(
            f"no frame of `{self.path}` begins at {float(start_s):g} s or later{until}{lasts}",
            "give other times with `--start` and `--end`",
        )

    def _describe(self) -> VideoInfo:
        stream = self._decoder.stream
        unpack = self._unpack
        info = describe(stream, self._first, unpack.pix_fmt, unpack.layout, self._facts)
        fields = 2 if self._deinterlaces and self._scan.interlaced else 1
        numbered = self._decoder.numbered
        frames = info.frame_count_from_header if numbered is None else len(numbered.files)
        share = self._decoder.window.share(self._decoder.container.duration)
        return replace(
            info,
            path=self.path,
            time_base=self._tick,
            start_pts=pts_of(self._first),
            rate=info.rate * fields,
            fastest=info.fastest * fields,
            frame_count_from_header=frames and math.ceil(frames * fields * share),
        )

    def _last_duration(self, last: Frame) -> int:
        """Say how long the last frame is shown, which the end of the timeline may cut short."""
        end_s = self._decoder.window.end_s
        duration = self._duration_by_header(last) if self._after is None else self._after - last.pts
        if end_s is None:
            return duration
        until_end = max(1, round(end_s / self._tick) - last.pts)
        return min(duration, until_end) if duration else 0

    def _duration_by_header(self, last: Frame) -> int:
        """Correct the last frame's duration where an MP4's header knows better."""
        if not self._decoder.container.format.name.startswith("mov") or self.damage:
            return last.duration
        try:
            end = presentation_end(self.path, self._decoder.stream.id)
        except OSError:  # gone since it was opened
            return last.duration
        # the header counts in milliseconds or finer; a difference of as much is its rounding
        found = (last.pts + last.duration) * self._tick
        if end is None or abs(found - end) < _HEADER_TICK * 2:
            return last.duration
        duration = round(end / self._tick) - last.pts
        return duration if 0 < duration <= most_ticks(self._tick) else last.duration

    def _alpha_notes(self) -> list[str]:
        tags = {key.lower(): tag for key, tag in self._decoder.stream.metadata.items()}
        if tags.get(ALPHA_TAG) != "1" or has_alpha(self._first.format.name):
            return []
        return [
            "alpha channel dropped: the stream has one beside its pictures, the output has none"
        ]

    def _change_notes(self) -> list[str]:
        if not self._changes:
            return []
        return [f"the picture changes {named(self._changes)}: converted to match the first"]

    def _field_notes(self) -> list[str]:
        """Say what became of pictures that have two fields, or are marked so."""
        scan, marked = self._scan, self._marked
        if self._deinterlaces and scan.interlaced:
            film = "; motion stays uneven, as it is telecined" if scan.telecined else ""
            return [f"deinterlaced: each interlaced frame became two{film}"]
        if self._deinterlaces and marked:
            return [f"deinterlaced: each of the {marked} frames marked as interlaced became two"]
        if self._deinterlaces:
            return ["not interlaced: `--deinterlace` had nothing to do"]
        if scan.marked:
            return ["marked as interlaced, but its pictures are whole: nothing to deinterlace"]
        if marked:
            return [
                f"{marked} frames are marked as interlaced, but not the first ones, and were not "
                "deinterlaced: if they look combed, add `--deinterlace`"
            ]
        return []
