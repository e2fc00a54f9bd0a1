"""Sound encoded again: stretched for slow motion, or of a kind that a container cannot hold."""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream

from sepconv_video.video.containers import (
    can_begin,
    can_hold,
    codec_of,
    describe_like,
    is_readable,
)
from sepconv_video.video.window import Window

_BITS_PER_CHANNEL = 128_000
"""Per second: more than transparent for every lossy codec, as this is its second encoding."""
_MOST_BITS = {"mp3": 320_000, "mp2": 384_000, "ac3": 640_000}
_PADDING_S = 1
_OFF_S = 0.02
"""How far sound may be from its times: nobody notices, and such times jitter by less."""
_LOSSY, _LOSSLESS = ("aac", "libopus", "libmp3lame", "ac3"), ("flac", "alac", "pcm_bluray")
_OTHERWISE = {3: "3.0", 4: "quad", 5: "5.0(side)", 6: "5.1(side)"}
"""How some encoders want so many channels to be arranged, if not as usual."""


class Encoder(NamedTuple):
    """What sound is encoded with: FFmpeg's name of an encoder, and of the channels it is given."""

    name: str
    layout: str


def encoder_for(container: str, source: AudioStream) -> Encoder | None:
    """Choose an encoder for a stream's sound: its own codec if the container holds that.

    Else AAC or FLAC (what was lossless stays so) or the nearest that it holds; with as many
    channels if there is one.
    """
    context = source.codec_context
    if not getattr(context, "sample_rate", 0):  # nothing is known of it, not even its codec
        return None
    is_lossless = context.codec.lossless and not context.codec.lossy
    own = [codec_of(source)] if can_hold(container, source) else []
    names = (*own, *_LOSSLESS, *_LOSSY) if is_lossless else (*own, *_LOSSY, *_LOSSLESS)
    layouts = _layouts(context)
    count = AudioLayout(layouts[0]).nb_channels if layouts else 0
    fewer = [one for one in ("5.1", "stereo") if AudioLayout(one).nb_channels < count]
    choices = [Encoder(name, layout) for name in names for layout in layouts]
    choices += [Encoder(name, layout) for layout in fewer for name in names]
    return next((choice for choice in choices if _fits(container, choice, source)), None)


def _layouts(context: AudioCodecContext) -> list[str]:
    """Name the arrangements of a stream's channels that lose none; empty without channels.

    And for those in an order of their own: PyAV 18.1 frees what describes it with each frame that
    it decodes, though it belongs to the decoder.
    """
    layout = context.layout
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))  # it would free that of the stream
    name, count = layout.name, layout.nb_channels
    if count == 0 or " channels (" in name or name.startswith("ambisonic"):
        return []
    own = [] if name == f"{count} channels" else [name]
    usual = AudioLayout(f"{count}c").name
    return list(dict.fromkeys([*own, usual, _OTHERWISE.get(count, usual)]))


def _fits(container: str, choice: Encoder, source: AudioStream) -> bool:
    """Tell whether sound can be encoded so into a container."""
    try:
        codec = Codec(choice.name, "w")
    except UnknownCodecError:
        return False
    is_read = not codec.experimental and is_readable(container, codec.canonical_name)
    return is_read and can_begin(container, lambda trial: _declare(trial, choice, source))


def _declare(output: OutputContainer, choice: Encoder, source: AudioStream) -> AudioStream:
    codec, context = Codec(choice.name, "w"), source.codec_context
    rates = codec.audio_rates or [context.sample_rate]
    rate = min(
        rates, key=lambda rate: (rate < context.sample_rate, abs(rate - context.sample_rate))
    )
    stream = cast(AudioStream, output.add_stream(choice.name, rate))
    encoder = stream.codec_context
    encoder.layout = layout = AudioLayout(choice.layout)
    # of the encoder's formats the least that holds every bit of the source's
    formats = sorted(codec.audio_formats or [], key=lambda form: form.bytes)
    wanted = context.format.bytes if context.format else 0
    encoder.format = next((form for form in formats if form.bytes >= wanted), formats[-1])
    if codec.lossy:
        usual = _BITS_PER_CHANNEL * layout.nb_channels
        encoder.bit_rate = min(usual, _MOST_BITS.get(codec.canonical_name, usual))
    return stream


class EncodedSound:
    """A sound stream on its way through FFmpeg's `atempo` and an encoder.

    Attributes:
        stream: The stream in the output.
        codec: FFmpeg's name of what it is encoded as.
        end_s: Where what came in ends so far, in seconds on the source's clock.
    """

    def __init__(
        self, output: OutputContainer, source: AudioStream, encoder: Encoder, window: Window
    ) -> None:
        """Declare the stream in the output."""
        self._source, self._window = source, window
        stream = _declare(output, encoder, source)
        describe_like(stream, source)
        self._encoder: AudioCodecContext = stream.codec_context
        self.stream: Stream = stream
        self.codec = self._encoder.codec.canonical_name
        self._is_avi = output.format.name == "avi"
        self._graph: Graph | None = None
        self.end_s = Fraction(0)
        self._next: int | None = None  # pts of the next sample; None before the first

    def __call__(self, packet: "Packet[Stream] | None") -> "Iterator[Packet[Stream]]":
        """Make a packet's sound longer, or all that is left (None).

        Packets come out later than they went in, as `atempo` compares stretches of sound; they
        have the target's times.
        """
        if packet is not None:
            for frame in self._source.decode(cast("Packet[AudioStream]", packet)):
                yield from self._push(frame)
            return
        with suppress(av.EOFError):
            for frame in self._source.decode(None):
                yield from self._push(frame)
        if self._graph is not None:
            with suppress(av.EOFError):
                self._graph.push(None)
            yield from self._pull(self.end_s)
        yield from self._encoded(None)

    def _push(self, frame: AudioFrame) -> "Iterator[Packet[Stream]]":
        tick = Fraction(frame.time_base or Fraction(1, frame.sample_rate))
        begin_s = self.end_s if frame.pts is None else frame.pts * tick
        self.end_s = begin_s + Fraction(frame.samples, frame.sample_rate)
        if self._graph is None:
            self._graph = self._filters(frame)
            self._next = round(self._window.target(begin_s) * self._encoder.sample_rate)
        with suppress(av.EOFError):  # beyond the end of the stretch
            self._graph.push(frame)
        yield from self._pull()

    def _filters(self, frame: AudioFrame) -> Graph:
        """Chain the filters: gaps become silence, all becomes longer, and is put in its place."""
        graph, rate, slowdown = Graph(), self._encoder.sample_rate, self._window.slowdown
        end_s = self._window.end_s
        tick = Fraction(frame.time_base or Fraction(1, frame.sample_rate))
        chain = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=_known(frame.layout).name,
                time_base=tick,
            ),
            *(
                []
                if end_s is None
                else [graph.add("atrim", f"end_pts={int(end_s * frame.sample_rate)}")]
            ),
            graph.add("aresample", f"{rate}:async=1:min_hard_comp={_OFF_S}"),
            graph.add("apad", f"pad_dur={_PADDING_S}"),  # what `atempo` swallows at the end
            # it goes down to half the tempo at a time
            *(graph.add("atempo", "0.5") for _ in range(slowdown.bit_length() - 1)),
            graph.add("adelay", f"{_early(rate) * (slowdown - 1)}S:all=1"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*chain).configure()
        return graph

    def _pull(self, end_s: Fraction | None = None) -> "Iterator[Packet[Stream]]":
        """Encode what comes out of the filters, up to the end of the sound or the stretch."""
        assert self._graph is not None
        assert self._next is not None
        ends_s = [time_s for time_s in (end_s, self._window.end_s) if time_s is not None]
        rate = self._encoder.sample_rate
        end = round(self._window.target(min(ends_s)) * rate) if ends_s else None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            found = cast(AudioFrame, frame)
            if end is not None and end - self._next < found.samples:
                if end > self._next:
                    yield from self._encoded(_shortened(found, end - self._next))
                return
            yield from self._encoded(found)

    def _encoded(self, frame: AudioFrame | None) -> "Iterator[Packet[Stream]]":
        if frame is not None:
            assert self._next is not None  # set with the filters
            frame.pts, frame.time_base = self._next, Fraction(1, self._encoder.sample_rate)
            self._next += frame.samples
        for packet in self._encoder.encode(frame):
            # FLAC ends with an empty one, which NUT and AVI would show a decoder; what comes before
            # 0, as encoders need it, AVI would play from 0 on
            is_before = self._is_avi and (packet.pts or 0) + (packet.duration or 0) / 2 <= 0
            if packet.size and not is_before:
                yield cast("Packet[Stream]", packet)


def _known(layout: AudioLayout) -> AudioLayout:
    """Take the usual layout where only the number of channels is known: no encoder goes without."""
    is_unknown = layout.name == f"{layout.nb_channels} channels"
    return AudioLayout(f"{layout.nb_channels}c") if is_unknown else layout


def _shortened(frame: AudioFrame, samples: int) -> AudioFrame:
    """Cut the end off a frame."""
    columns = samples * (1 if frame.format.is_planar else frame.layout.nb_channels)
    sound = frame.to_ndarray()[:, :columns]
    shorter = AudioFrame.from_ndarray(sound.copy(), frame.format.name, frame.layout.name)
    shorter.sample_rate = frame.sample_rate
    return shorter


def _early(rate: int) -> int:
    """Tell by how many samples `atempo`, at half the tempo, gives everything too early.

    Measured with clicks and steps at 8 to 96 kHz, to within a tenth: 11/16 of its window, which
    is the power of two from a 24th of a second on.
    """
    return (1 << (rate // 24 - 1).bit_length()) * 11 // 16
