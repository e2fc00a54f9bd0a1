"""The video stream of an output: its encoder, its ticks, and how frames become pictures.

The same track is opened once for each segment, which encodes, and once more for the file
that joins them, whose header is then the one its packets were made for.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import av
from av.codec import Codec
from av.codec.context import Flags, ThreadType
from av.container import OutputContainer
from av.format import ContainerFormat
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame, Plane, VideoInfo
from sepconv_video.video.containers import format_of, lost_colors
from sepconv_video.video.conversion import Conversion
from sepconv_video.video.dolby import at_rate, kind_of, needs_metadata
from sepconv_video.video.encoders import Encoding, plan
from sepconv_video.video.faults import explain
from sepconv_video.video.formats import frame_of, layout_of, widen
from sepconv_video.video.hdr import PARAMETERS, WRONG_COLOURS
from sepconv_video.video.headers import announce, can_announce
from sepconv_video.video.messages import DOLBY, held_by, lost_messages
from sepconv_video.video.painter import Painter, picture_plan
from sepconv_video.video.pictures import is_picture
from sepconv_video.video.space import kept, lost_space

_DOLBY_BITS = 10
_MOST_TICKS = 2**31 - 1  # FFmpeg keeps time bases in 32 bits
_TICKS = {"vp8": (10**9, 1_000_000), "vp9": (10**9, 1_000_000), "mpeg4": (2**16 - 1, 60_000)}
"""By video codec: ticks a second at most, and those where there would be more."""
_OTHER_TICKS = _MOST_TICKS, 1_000_000
_OF_ONE_RATE = {"mpeg1video", "mpeg2video"}
"""Video codecs whose frames come at one rate."""
_LAMBDA_PER_QUANTISER = 118  # FF_QP2LAMBDA
_ANNOUNCING = {"mp4", "mov", "matroska", "webm"}  # containers that hold HDR10's metadata
_GLOBAL_HEADER = 0x0040  # AVFMT_GLOBALHEADER
_FASTEST_AVI = 1000  # for a higher rate FFmpeg writes 600
_LATEST_S = Fraction(1, 1000)  # that a frame may come late where several want one tick
_LONGEST_AVI_PAUSE = 60_000  # ticks, for FFmpeg
_UNEVEN = "choose a name ending in `.mkv` or `.mp4`, or an even rate with `--fps`"
_GRIDS = {"matroska": 1000, "webm": 1000, "mpegts": 90_000, "m2ts": 90_000}  # ticks per second


class Track:
    """How a video is encoded, decided once for all its segments.

    Attributes:
        codec: FFmpeg's name of the encoder chosen.
        container: The container it will end up in, as `container_for` names it.
        time_base: Seconds per tick of the encoder and of the packets.
        rate: Nominal frames per second.
        holds: Kinds of metadata of single pictures that it can hold.
        note: What is encoded otherwise than in the source, in one line, or an empty string.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        time_base: Fraction,
        rate: Fraction,
        encoding: Encoding,
        fastest: Fraction | None = None,
    ) -> None:
        """Choose the encoder.

        Args:
            info: The source's description: size, format, colour, aspect, rotation.
            time_base: Seconds per tick of the frames' `pts` and `duration`.
            rate: Nominal frames per second of the output.
            encoding: Codec, quality and container.
            fastest: Frames per second that would hold all times; None for `rate`.

        Raises:
            OptionsError: If the encoding makes no sense.
            VideoError: If no encoder can hold the video.
        """
        self.info, self.container = info, encoding.container or "matroska"
        is_painted = is_picture(f"a.{self.container}")
        self._plan = (picture_plan if is_painted else plan)(info, encoding, self.container)
        self._frame_ticks, self.rate = time_base, rate
        self.codec = self._plan.codec
        form = self._plan.form
        self._conversion = (
            Conversion(info, form.pix_fmt, self._plan.color) if form.is_converted else None
        )
        self._paint = Painter(info, self._plan) if is_painted else None
        colors = "" if is_painted else lost_colors(self.container, self.codec, self._plan.color)
        space = lost_space(info, self._described_by)
        notes = self._plan.note, colors, self._light_note(), space
        self.note = "; ".join(filter(None, notes))
        self.time_base, codec = time_base, Codec(self.codec, "w").canonical_name
        most, in_need = _TICKS.get(codec, _OTHER_TICKS)
        self._has_one_rate = codec in _OF_ONE_RATE
        if self.container == "avi" or self._has_one_rate:
            # where an AVI's one rate comes to no frame, it has an empty one
            self.time_base = 1 / min(max(rate, fastest or rate), Fraction(_FASTEST_AVI))
        elif format_of(self.container) == "mpegts":
            # or two frames that come almost at once would share one of its ticks, which it refuses
            grid = _GRIDS[self.container]
            self.time_base = Fraction(1, grid if grid <= most else grid // 2)
        elif max(time_base.denominator, time_base.numerator) > most:
            self.time_base = Fraction(1, in_need)
        self.holds = held_by(self.codec, self.container)
        if info.dolby is None or form.pix_fmt != info.pix_fmt or info.bits != _DOLBY_BITS:
            self.holds -= {DOLBY}
        self._source_layout = layout_of(info.pix_fmt) or self._plan.layout

    @property
    def is_painted(self) -> bool:
        """Whether the video ends up as RGB pictures instead of in a container."""
        return self._paint is not None

    @property
    def says_more(self) -> bool:
        """Whether its container stores marks that FFmpeg considers unofficial there."""
        return any(kept(self.info, self.container)) or self.dolby is not None

    @property
    def dolby(self) -> bytes | None:
        """Dolby Vision's record of this video; None where it has none."""
        info = self.info
        if DOLBY not in self.holds or info.dolby is None:
            return None
        return at_rate(info.dolby, info.width * info.height, self.rate)

    def rescaler(self) -> "Rescaler":
        """Give what turns the ticks of one segment's frames into those of `time_base`."""
        return Rescaler(self._frame_ticks, self.time_base, self.container)

    def add_to(self, output: OutputContainer) -> VideoStream:
        """Declare the stream in an output and open its encoder.

        Raises:
            VideoError: If the encoder does not open.
        """
        info = self.info if self._paint is None else self._paint.info
        rate = self.rate
        rate = rate.limit_denominator(_MOST_TICKS // max(1, math.ceil(rate)))
        stream = output.add_stream(
            self.codec,
            rate,
            options=self._plan.options,
            time_base=self.time_base,
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        if can_announce(context.codec.canonical_name):
            announce(info, self.container, self.dolby, stream)
        context.width, context.height, context.framerate = info.width, info.height, rate
        context.pix_fmt = self._plan.form.stored_as
        self._tag(context)
        if self.container == "avi":
            context.max_b_frames = 0  # it has no times of presentation: all would seem late
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        # PyAV's default cuts pictures into slices, which costs x264 quality
        context.thread_type = ThreadType.AUTO
        if self._plan.quantiser is not None:
            context.qscale = True
            context.global_quality = self._plan.quantiser * _LAMBDA_PER_QUANTISER
        self._set_header_flag(stream)
        if context.codec.canonical_name == "hevc" and output.format.name in {"mp4", "mov"}:
            context.codec_tag = "hvc1"  # Apple's players know no other
            if self.dolby is not None and output.format.name == "mp4":
                context.codec_tag = kind_of(self.dolby).decode()
        if info.display_matrix:
            stream.set_display_matrix(info.display_matrix)
        self._open(stream)
        return stream

    def _set_header_flag(self, stream: VideoStream) -> None:
        """Put the parameter sets where the final container wants them, whatever this one does.

        In MP4 they stand in the header, in a transport stream before each key frame.
        """
        wanted = not self.is_painted and (
            ContainerFormat(format_of(self.container), "w").flags & _GLOBAL_HEADER
        )
        flags = stream.codec_context.flags & ~Flags.global_header
        stream.codec_context.flags = flags | (Flags.global_header if wanted else 0)

    def _open(self, stream: VideoStream) -> None:
        try:
            stream.codec_context.open()
        except av.FFmpegError as fault:
            info = self.info
            raise VideoError(
                f"cannot open encoder `{self.codec}` for {info.width}x{info.height} "
                f"{self._plan.form.stored_as} at {self.time_base} s per tick in {self.container}: "
                f"{explain(fault)[0]}",
                "it needs an NVIDIA GPU with an encoder; `libx264` runs everywhere"
                if self.codec.endswith("_nvenc")
                else "choose another codec, e.g. `libx264`",
            ) from fault

    def picture(self, frame: Frame, pts: int, duration: int) -> av.VideoFrame:
        """Turn a frame into what the encoder takes, at a time in ticks of `time_base`."""
        planes = frame.planes
        if self._plan.layout != self._source_layout:
            planes = widen(
                planes,
                self._source_layout,
                self._plan.layout,
                full_range=self.info.color.full_range,
            )
        picture = self._formed(planes)
        picture.time_base = self.time_base
        picture.pts, picture.duration = pts, duration
        self._tag(picture)
        return picture

    def _formed(self, planes: Sequence[Plane]) -> av.VideoFrame:
        """Put planes into the encoder's format: exactly, or converted where nothing else goes."""
        if self._paint is not None:
            return self._paint(planes)
        if self._conversion is not None:
            return self._conversion(planes)
        return frame_of(planes, self._plan.form.pix_fmt, self._plan.layout)

    def _tag(self, bearer: av.VideoFrame | VideoCodecContext) -> None:
        color = self._plan.color
        bearer.colorspace, bearer.color_range = color.colorspace_tag, color.range_tag
        bearer.color_primaries, bearer.color_trc = color.primaries_tag, color.transfer_tag

    @property
    def _described_by(self) -> str:
        """What holds the video's description: the container, or, where it cannot, its codec."""
        is_known = can_announce(Codec(self.codec, "w").canonical_name)
        return self.container if is_known else self.codec

    def _light_note(self) -> str:
        """Say that the light levels are lost where neither the stream nor its file holds them."""
        if self.info.light is None or self.codec in PARAMETERS:
            return ""
        if self._described_by in _ANNOUNCING:
            return ""
        return (
            f"mastering display and light levels left out: {self.codec} in {self.container} "
            "cannot hold them, libx265 in any container can"
        )

    def lost_messages(self, found: set[str]) -> str:
        """Name those of `Reader.messages` that the stream cannot hold; empty if none."""
        lost, dolby = found - self.holds, self.info.dolby
        is_wrong = DOLBY in lost and dolby is not None and needs_metadata(dolby)
        note = lost_messages(lost, f"{self.codec} in {self.container}")
        return note + WRONG_COLOURS * is_wrong

    def rounding_note(self, rounded: int, times: Sequence[int]) -> str:
        """Say how many of the times are not exact; an empty string if all are.

        Or if that does not matter: Matroska states a constant rate beside the times.

        Args:
            rounded: How many.
            times: All, in ticks: where ticks of the container are too few, some become equal.
        """
        is_even = rounded > 0 and self._is_even(times)
        if not rounded or (is_even and self.container in {"matroska", "webm"}):
            return ""
        own = _GRIDS.get(self.container, 1 / self.time_base)
        # what is even has been put there exactly, and is rounded by the container alone
        grid = own if is_even and self._has_one_rate else min(own, 1 / self.time_base)
        ratio = self.time_base * grid
        # halves go up, as FFmpeg rounds
        shared = len(times) - len({math.floor(ticks * ratio + Fraction(1, 2)) for ticks in times})
        equal = f", {shared} of them to the time of another frame" if shared else ""
        told = f"{rounded} frame times rounded to {1 / Fraction(grid)} s, the finest"
        if grid < own:
            return f"{told} of {self.codec}{equal}; other codecs have finer ones"
        return f"{told} in {self.container}{equal}; a name ending in `.mp4` keeps them exactly"

    def _is_even(self, times: Sequence[int]) -> bool:
        """Tell whether frames come at the constant rate, to a tick of Matroska."""
        step, most = 1 / (self.rate * self.time_base), 1 / (_GRIDS["matroska"] * self.time_base)
        return all(
            abs(ticks - times[0] - index * step) <= most for index, ticks in enumerate(times)
        )


class Rescaler:
    """Turns the frames' ticks into the encoder's, which the container must be able to hold.

    Attributes:
        rounded: Times so far that do not fall on a tick of the container.
    """

    def __init__(self, ticks: Fraction, time_base: Fraction, container: str) -> None:
        """Start at nothing; times must then come in increasing order."""
        self.rounded = 0
        self._ratio, self._tick, self._container = ticks / time_base, time_base, container
        self._to_grid = ticks * _GRIDS.get(container, 1 / ticks)
        self._last: int | None = None
        self._patience = max(Fraction(1), _LATEST_S / time_base)  # ticks

    def pts(self, ticks: int) -> int:
        """Time of a frame in the encoder's ticks, later than the one before.

        Raises:
            VideoError: Frames come so much faster than ticks that they would be shown too late, or
                an AVI cannot hold the pause before one.
        """
        exact = ticks * self._ratio
        pts = round(exact)
        if self._last is not None:
            pts = max(pts, self._last + 1)
            if pts > exact + self._patience:
                raise VideoError(
                    f"cannot write all frames in time: {self._container} has one rate, here "
                    f"{float(1 / self._tick):g} a second, and some come faster",
                    _UNEVEN,
                )
            if self._container == "avi" and pts - self._last > _LONGEST_AVI_PAUSE:
                pause_s = float((pts - self._last) * self._tick)
                raise VideoError(f"cannot write a pause of {pause_s:g} s into avi", _UNEVEN)
        self.rounded += pts != exact or (ticks * self._to_grid).denominator != 1
        self._last = pts
        return pts

    def duration(self, ticks: int) -> int:
        """Length of a frame in the encoder's ticks."""
        return round(ticks * self._ratio)
