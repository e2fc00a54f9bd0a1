"""Sound made longer for slow motion, at its own pitch, and encoded again."""

import io
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream

from sepconv_video.video.holding import called, codec_of, describe_like
from sepconv_video.video.window import Window

_BITS_PER_CHANNEL = 128_000
"""Per second: more than transparent for every lossy codec, as this is its second encoding."""
_MOST_BITS = {"mp3": 320_000, "mp2": 384_000, "ac3": 640_000}
_LOSSY, _LOSSLESS = ("aac", "libopus", "libmp3lame"), ("flac", "alac")


def encoder_for(container: str, source: AudioStream) -> str | None:
    """Choose an encoder for a stream's sound: its own codec if possible.

    Else AAC or FLAC (what was lossless stays so) or the nearest that the container holds.
    """
    context = source.codec_context
    is_lossless = context.codec.lossless and not context.codec.lossy
    others = (*_LOSSLESS, *_LOSSY) if is_lossless else (*_LOSSY, *_LOSSLESS)
    return next(
        (name for name in (codec_of(source), *others) if _fits(container, name, source)), None
    )


def _fits(container: str, name: str, source: AudioStream) -> bool:
    """Tell whether sound can be encoded so into a container, by writing its header to memory."""
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        if Codec(name, "w").experimental:
            return False
        _declare(trial, name, source)
        trial.start_encoding()
    except (av.FFmpegError, UnknownCodecError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()
    return True


def _declare(output: OutputContainer, name: str, source: AudioStream) -> AudioStream:
    codec, context = Codec(name, "w"), source.codec_context
    rates = codec.audio_rates or [context.sample_rate]
    rate = min(
        rates, key=lambda rate: (rate < context.sample_rate, abs(rate - context.sample_rate))
    )
    stream = cast(AudioStream, output.add_stream(name, rate))
    encoder = stream.codec_context
    encoder.layout = context.layout
    # of the encoder's formats the least that holds every bit of the source's
    formats = sorted(codec.audio_formats or [], key=lambda form: form.bytes)
    wanted = context.format.bytes if context.format else 0
    encoder.format = next((form for form in formats if form.bytes >= wanted), formats[-1])
    if codec.lossy:
        usual = _BITS_PER_CHANNEL * context.layout.nb_channels
        encoder.bit_rate = min(usual, _MOST_BITS.get(codec.canonical_name, usual))
    return stream


class StretchedSound:
    """A sound stream on its way through FFmpeg's `atempo` and an encoder.

    Attributes:
        stream: The stream in the output.
        note: What is done, for the user.
    """

    def __init__(
        self, output: OutputContainer, source: AudioStream, encoder: str, window: Window
    ) -> None:
        """Declare the stream in the output, encoded with `encoder`."""
        self._source, self._window = source, window
        stream = _declare(output, encoder, source)
        describe_like(stream, source)
        self._encoder: AudioCodecContext = stream.codec_context
        self.stream: Stream = stream
        self.note = (
            f"{called(source)} made {window.slowdown} times longer and encoded again as "
            f"{self._encoder.codec.canonical_name}"
        )
        self._graph: Graph | None = None
        self._end_s = Fraction(0)  # of what came in, on the source's clock
        self._next = 0  # pts of the next sample
        self._last: AudioFrame | None = None

    def __call__(self, packet: "Packet[Stream] | None") -> "Iterator[Packet[Stream]]":
        """Make a packet's sound longer, or all that is left (None).

        Packets come out later than they went in, as `atempo` compares stretches of sound; they
        have the target's times.
        """
        if packet is not None:
            frames = self._source.decode(cast("Packet[AudioStream]", packet))
            for frame in frames:
                yield from self._push(frame)
            return
        with suppress(av.EOFError):
            for frame in self._source.decode(None):
                yield from self._push(frame)
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
            yield from self._fill()
        yield from self._encode(None)

    def _push(self, frame: AudioFrame) -> "Iterator[Packet[Stream]]":
        if frame.pts is not None and frame.time_base:
            self._end_s = frame.pts * Fraction(frame.time_base)
        if self._graph is None:
            self._graph = self._filters(frame)
            self._next = round(self._window.target(self._end_s) * self._encoder.sample_rate)
        self._end_s += Fraction(frame.samples, frame.sample_rate)
        self._graph.push(frame)
        yield from self._pull()

    def _filters(self, frame: AudioFrame) -> Graph:
        """Chain the filters: gaps become silence, then all becomes longer.

        `atempo` counts samples and goes down to half the tempo at a time.
        """
        graph = Graph()
        halvings = self._window.slowdown.bit_length() - 1
        chain = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=Fraction(frame.time_base or Fraction(1, frame.sample_rate)),
            ),
            graph.add("aresample", f"{self._encoder.sample_rate}:async=1"),
            *(graph.add("atempo", "0.5") for _ in range(halvings)),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*chain).configure()
        return graph

    def _pull(self) -> "Iterator[Packet[Stream]]":
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield from self._encode(cast(AudioFrame, frame))

    def _fill(self) -> "Iterator[Packet[Stream]]":
        """Add what `atempo` swallows at the end, as silence."""
        rate, like = self._encoder.sample_rate, self._last
        missing = round(self._window.target(self._end_s) * rate) - self._next
        if like is None or missing <= 0:
            return
        columns = missing * (1 if like.format.is_planar else like.layout.nb_channels)
        sound = like.to_ndarray()
        middle = 128 if sound.dtype == np.uint8 else 0
        silence = np.full((len(sound), columns), middle, sound.dtype)
        frame = AudioFrame.from_ndarray(silence, like.format.name, like.layout.name)
        frame.sample_rate = rate
        yield from self._encode(frame)

    def _encode(self, frame: AudioFrame | None) -> "Iterator[Packet[Stream]]":
        if frame is not None:
            frame.pts, frame.time_base = self._next, Fraction(1, self._encoder.sample_rate)
            self._next += frame.samples
            self._last = frame
        for packet in self._encoder.encode(frame):
            yield cast("Packet[Stream]", packet)
