"""Interlaced video: finding out whether a stream is, and making whole pictures of its fields.

Marks alone do not tell. Whole pictures are often marked as interlaced (PsF, most cameras that
record 25 or 30 pictures), and combed ones that somebody encoded without marks are as frequent.
So FFmpeg's `idet` looks at the first pictures too, and it decides wherever it is sure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph

from sepconv_video.errors import VideoError
from sepconv_video.video.clock import pts_of
from sepconv_video.video.faults import explain, quoted
from sepconv_video.video.unpacker import Form, form_of

_MOST_PICTURES = 32
_MOST_BYTES = 64 * 2**20
"""No more decoded pictures wait for the verdict than these, which is 20 of 1080 lines, the
largest that is ever interlaced."""
_FEWEST = 5
"""`idet` compares neighbours: fewer prove nothing."""
_IDET = "prog_thres=1.1:rep_thres=1.5"
"""Lower than FFmpeg's 1.5 and 3, with which 11 of the 96 progressive clips of the project's data
stay undetermined and telecine is not seen after encoding. So all 96 are seen as progressive, no
picture of them as combed; of the same clips made interlaced 1 of 1,765 pictures as progressive."""
_DOUBT = "prog_thres=1.3:intl_thres=1.2"
"""With these a combed picture is hardly ever seen as whole (in one of those 96 clips, made
interlaced, in a third of its pictures), but what only seems combed often is: FFmpeg's `testsrc2`,
which `idet` takes for interlaced whatever its settings, in nine tenths."""
_LEAST_COMBING = 0.2
"""`_Combing` of pictures with fields is 0.27 to 1.6 by those clips; of flat shapes that move, for
`idet` combed whatever its settings, up to 0.13."""
_CHANGED = 12
"""Levels of 255 by which a pixel changes where something moves."""
_SMALLEST = 16
"""Columns and lines: smaller pictures have no fields, and `bwdif` refuses them."""
_LEAST_LINES, _MOST_RATE = 240, 31
"""Nothing was ever recorded in fields of fewer than 240 lines, cropped as it may be, or at more
pictures a second: what seems combed there, unmarked, is a pattern that moves."""
_WHOLE_ENOUGH = 10
"""After so many whole pictures and no combed one, even two cycles of telecine would have shown."""
_ORDERS = {2: "tff", 3: "bff"}  # AVFieldOrder; the mixed ones, 4 and 5, are used both ways
_RESERVED, _UNSPECIFIED = 3, 2  # colour spaces of H.273
_NAMES = {"tff": " (top field first)", "bff": " (bottom field first)", "": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """How the pictures of a stream were scanned, judged from its first ones."""

    interlaced: bool
    """Whether pictures have two fields, of two moments."""
    marked: bool
    """Whether the header or a picture says that they have, truly or not."""
    per_picture: bool
    """Whether the pictures' marks can be relied on to tell which have two fields."""
    order: str = ""
    """`tff` or `bff`, for the top or the bottom field first; empty if unknown."""
    telecined: bool = False
    """Whether fields are repeated, as where 24 pictures of film are made 30 of television."""

    def refuse(self, path: Path) -> VideoError:
        """Build the error for a stream that is not to be deinterlaced."""
        if self.telecined:
            return VideoError(
                f"`{path}` is telecined{_NAMES[self.order]}: film whose fields are repeated to "
                "make 30 pictures a second of 24",
                f"undo that first, `ffmpeg -i {quoted(path)} -vf fieldmatch,decimate -crf 12 "
                "new.mkv`, or add `--deinterlace`, which leaves the uneven motion",
            )
        return VideoError(
            f"`{path}` is interlaced{_NAMES[self.order]}: each picture shows two moments, "
            "line by line",
            "add `--deinterlace`",
        )


class Examination:
    """Looks at the first pictures of a stream.

    Attributes:
        most: How many may be given to it, by their size in memory; 0 if none is needed.
    """

    def __init__(self, first: av.VideoFrame, field_order: int, rate: Fraction) -> None:
        """Prepare for pictures like `first`; `field_order` is the header's AVFieldOrder."""
        self._order = _ORDERS.get(field_order, "")
        self._in_header = field_order > 1
        picture_bytes = sum(plane.buffer_size for plane in first.planes) or 1
        most = min(_MOST_PICTURES, _MOST_BYTES // picture_bytes)
        is_small = first.width < _SMALLEST or first.height < _SMALLEST
        self.most = 0 if most < _FEWEST or is_small else most
        self._can_be = not is_small
        self._is_likely = first.height >= _LEAST_LINES and rate <= _MOST_RATE
        self._first = first
        self._graphs: list[Graph] = []
        self._scores: list[tuple[str, str]] = []
        self._doubts: list[tuple[str, str]] = []
        self._combing = _Combing()
        self._marked = self._given = 0

    def add(self, picture: av.VideoFrame) -> bool:
        """Look at the next picture; False when no further one is needed."""
        self._given += 1
        self._marked += picture.interlaced_frame
        if not self.most or form_of(picture) != form_of(self._first):
            return False
        try:
            self._look_at(picture)
        # formats and colours that `idet` cannot take: the marks decide
        except (av.FFmpegError, ValueError):
            self.most = 0
            return False
        is_whole = not self._combed and self._count("progressive") >= _WHOLE_ENOUGH
        return self._given < self.most and not is_whole

    def _look_at(self, picture: av.VideoFrame | None) -> None:
        if not self._graphs:
            self._graphs = [_graph(self._first, "idet", how) for how in (_IDET, _DOUBT)]
        for graph, scores in zip(self._graphs, (self._scores, self._doubts), strict=True):
            scores += [_score(found) for found in _filtered(graph, picture)]
        if picture is not None:
            self._combing.add(picture)

    def scan(self) -> Scan:
        """Judge."""
        if self.most:
            self._look_at(None)
            self._graphs = []
        marked = bool(self._marked or self._in_header)
        interlaced = self._can_be and (
            self._confirms_marks() if marked else self._is_combed_beyond_doubt()
        )
        repeated = sum(fields != "neither" for _, fields in self._scores)
        return Scan(
            interlaced=interlaced,
            marked=marked,
            per_picture=self._marked * 2 >= max(self._combed, 1),
            order=self._order_seen() or self._order,
            telecined=interlaced and bool(self._combed) and repeated * 10 >= len(self._scores) * 3,
        )

    def _count(self, kind: str) -> int:
        return sum(seen == kind for seen, _ in self._scores)

    @property
    def _combed(self) -> int:
        return self._count("tff") + self._count("bff")

    def _order_seen(self) -> str:
        top, bottom = self._count("tff"), self._count("bff")
        return "" if top == bottom else "tff" if top > bottom else "bff"

    def _confirms_marks(self) -> bool:
        """Believe marks unless the pictures are seen to be whole."""
        whole = self._count("progressive")
        return self._combed * 10 > whole or whole < _FEWEST - 1

    def _is_combed_beyond_doubt(self) -> bool:
        """Ask for more than a few pictures whose stripes move up or down can feign."""
        whole = sum(seen == "progressive" for seen, _ in self._doubts)
        if not self._is_likely or whole * 2 >= len(self._doubts):
            return False
        rarer = min(self._count("tff"), self._count("bff"))
        least = max(_FEWEST - 1, len(self._scores) * 0.3)
        is_combed = self._combed >= least and rarer * 10 <= self._combed
        return is_combed and self._combing.share >= _LEAST_COMBING


class _Combing:
    """How much lines differ from both of those beside them, where something has moved.

    Attributes:
        share: Of how much those two differ; of lines that are even or have a slope it is 0.
    """

    def __init__(self) -> None:
        self._before: npt.NDArray[np.float32] | None = None
        self._outlying = self._sloping = 0.0

    def add(self, picture: av.VideoFrame) -> None:
        """Look at the next picture, a fourth of its columns."""
        lines = picture.to_ndarray(format="gray")[:, ::4].astype(np.float32)
        above, own, below = lines[:-2], lines[1:-1], lines[2:]
        if self._before is not None:
            moved = np.abs(own - self._before) > _CHANGED
            nearest = np.minimum(np.abs(own - above), np.abs(own - below))
            self._outlying += float(nearest[moved].sum())
            self._sloping += float(np.abs(above - below)[moved].sum())
        self._before = own

    @property
    def share(self) -> float:
        return self._outlying / max(self._sloping, 1.0)


class Deinterlacer:
    """Makes two whole pictures of each that has two fields, with FFmpeg's `bwdif`.

    Two, as a picture of 25 a second holds 50 moments that were really recorded: whoever wants
    more motion would otherwise have half of it thrown away and then invented anew.
    """

    def __init__(self, scan: Scan, path: Path) -> None:
        """Deinterlace pictures scanned like `scan`; `path` is for messages."""
        self._is_all = scan.interlaced and not scan.per_picture
        deint = "all" if self._is_all else "interlaced"
        self._options = f"mode=send_field:parity={scan.order or 'auto'}:deint={deint}"
        self._path = path
        self._graph: Graph | None = None
        self._form: Form | None = None
        self._pts: int | None = None
        self._duration, self._step = 0, 1

    def pictures(self, source: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Deinterlace.

        Args:
            source: Pictures in order, with times and, where known, durations.

        Yields:
            Pictures with times and durations in half ticks: the first field when its picture was
            shown, the second half way to the next one. Those without fields are untouched.

        Raises:
            VideoError: If their format cannot be deinterlaced.
        """
        try:
            for picture in source:
                yield from self._push(picture)
            yield from self._flush()
        except (av.FFmpegError, ValueError) as fault:
            raise VideoError(
                f"cannot deinterlace `{self._path}`: {explain(fault)[0]}",
                f"convert it first, e.g. `ffmpeg -i {quoted(self._path)} -vf bwdif new.mkv`",
            ) from fault

    def _push(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        pts, form = pts_of(picture), form_of(picture)
        if form != self._form:
            yield from self._flush()
        if self._pts is not None:
            self._step = pts - self._pts
        self._pts, self._form, self._duration = pts, form, picture.duration
        if self._graph is None and (self._is_all or picture.interlaced_frame):
            self._graph = _graph(picture, "bwdif", self._options)
        if self._graph is None:
            picture.pts, picture.duration = pts * 2, picture.duration * 2
            yield picture
        else:
            yield from _filtered(self._graph, picture)

    def _flush(self) -> Iterator[av.VideoFrame]:
        """Take the last picture out; `bwdif` guesses when its second field is shown, we know it."""
        if self._graph is None:
            return
        first = None
        for picture in _filtered(self._graph, None):
            if first is not None:
                picture.pts = pts_of(first) + (self._duration or self._step)
            first = picture
            yield picture
        self._graph = None


def _graph(first: av.VideoFrame, name: str, options: str) -> Graph:
    """Set up a filter for pictures like `first`."""
    graph = Graph()
    space = int(first.colorspace)
    source = graph.add(
        "buffer",
        video_size=f"{first.width}x{first.height}",
        pix_fmt=first.format.name,
        time_base=str(first.time_base),
        colorspace=str(_UNSPECIFIED if space == _RESERVED else space),  # FFmpeg fails on it
        range=str(int(first.color_range)),
    )
    graph.link_nodes(source, graph.add(name, options), graph.add("buffersink")).configure()
    return graph


def _filtered(graph: Graph, picture: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Push a picture, or None for the end, and pull what comes out."""
    graph.vpush(picture)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _score(picture: av.VideoFrame) -> tuple[str, str]:
    """Read what `idet` found: order of the fields, and which of them repeats the one before."""
    seen = picture.metadata
    kinds = (seen.get(f"lavfi.idet.{kind}.current_frame", "") for kind in ("single", "repeated"))
    return next(kinds), next(kinds)
