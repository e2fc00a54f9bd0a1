"""Text subtitles in the form that the target's container has for them."""

from typing import cast

from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from sepconv_video.video.containers import called, codec_of, describe_like

_TEXT_CODECS = {
    "mp4": "mov_text",
    "mov": "mov_text",
    "matroska": "subrip",
    "webm": "webvtt",
    "nut": "ass",
}


def text_codec(container: str, stream: Stream) -> str | None:
    """Name the codec that a container has for the text of a stream; None if either has none."""
    context = stream.codec_context
    is_text = stream.type == "subtitle" and context is not None and context.codec.text_sub
    return _TEXT_CODECS.get(container) if is_text else None


class ConvertedText:
    """A text subtitle stream on its way into another codec.

    Attributes:
        stream: The stream in the output.
        note: What is done, for the user.
    """

    def __init__(self, output: OutputContainer, source: Stream, codec: str) -> None:
        """Declare the stream in the output.

        Raises:
            av.FFmpegError: Decoder or encoder do not open.
        """
        assert isinstance(source, SubtitleStream)
        self._source = source
        source.codec_context.open(strict=False)
        stream = cast(SubtitleStream, output.add_stream(codec))
        self._encoder: SubtitleCodecContext = stream.codec_context
        self._encoder.subtitle_header = source.codec_context.subtitle_header
        stream.time_base = source.time_base
        describe_like(stream, source)
        self.stream: Stream = stream
        self.note = f"{called(source)} converted to {codec}, the text of {output.format.name} files"
        if codec_of(source) in {"ass", "ssa"}:
            self.note += "; its layout is simplified"
        if output.format.name == "nut":
            self.note += "; the end times of lines are lost"

    def __call__(self, packet: "Packet[Stream]") -> "list[Packet[Stream]]":
        """Convert a packet; an empty one, as between two lines in MP4, becomes nothing."""
        found = self._source.decode(cast("Packet[SubtitleStream]", packet))
        lines = [line.ass for line in found if isinstance(line, AssSubtitle) and line.ass]
        if not lines:
            return []
        # an event in ASS has eight fields before its text
        text = b"\\N".join([lines[0], *(line.split(b",", 8)[-1] for line in lines[1:])])
        converted = cast(
            "Packet[Stream]", self._encoder.encode_subtitle(SubtitleSet.create(text, 0, 0))
        )
        converted.time_base = packet.time_base
        converted.pts, converted.dts, converted.duration = packet.pts, packet.dts, packet.duration
        return [converted]
