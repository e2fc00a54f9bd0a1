"""What `benchmark.py` measures of the whole program, and its rival; needs PyAV.

Apart from `speed`, as a rented GPU may have everything but PyAV.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
from av.filter import Graph
from av.video.frame import PictureType
from speed import Bench, Row

from sepconv_video.engine import Engine
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.production import grid_of
from sepconv_video.segmenting import Planner
from sepconv_video.video import Reader

LEAST_FRAMES, ROUNDS = 8, 3
X264 = {"preset": "medium", "crf": "16"}  # as our own encoder is told by default


def program_rows(bench: Bench, size: tuple[int, int], _: tuple[float, float]) -> Iterator[Row]:
    """Double the rate with the engine alone, with the program but its start, and otherwise."""
    engine = Engine.from_options(Options(device=str(bench.device)))
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        count = frames_within(bench, engine, clip, size)
        if count < min(bench.frames, LEAST_FRAMES):
            yield {}
            return
        write_clip(bench.clips, clip, size, count)
        figures = in_turns(engine, clip)
    row = {f"{name}_ms": statistics.median(times) * 1e3 / count for name, times in figures.items()}
    row |= {"frames": count, "ratio": row["program_ms"] / row["engine_ms"]}
    if "minterpolate_ms" in row:
        row["gain"] = row["minterpolate_ms"] / row["program_ms"]
    yield row


def frames_within(bench: Bench, engine: Engine, clip: Path, size: tuple[int, int]) -> int:
    """How many frames of a size the engine makes in half the time there is."""
    what, pixels = "program", size[0] * size[1]
    if what not in bench.rates:
        write_clip(bench.clips, clip, size, 4)
        run_engine(engine, clip)
        bench.rates[what] = run_engine(engine, clip) / 4 / pixels
    return min(bench.frames, int(bench.limit_s / 2 / bench.rates[what] / pixels))


def in_turns(engine: Engine, clip: Path) -> dict[str, list[float]]:
    """Seconds of each way to double the frame rate, several times in turn."""
    ways = {"engine": run_engine, "program": run_program}
    if engine.device.type == "cpu":  # the filter uses one core, and no GPU
        ways["minterpolate"] = run_minterpolate
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(way(engine, clip))
    return times


def run_engine(engine: Engine, clip: Path) -> float:
    """Seconds of the engine alone; frames and cuts are known before."""
    with Reader(clip) as reader:
        options = Options()
        planner = Planner(reader.info, grid_of(options, reader.info), options)
        intervals = list(planner.intervals(reader.frames(), 0))
        started = time.perf_counter()
        for _ in engine.run(intervals, reader.info):
            pass
        return time.perf_counter() - started


def run_program(engine: Engine, clip: Path) -> float:
    """Seconds of everything but the start: imports and loading the model."""
    target = clip.with_name("ours.mp4")
    started = time.perf_counter()
    interpolate_file(
        Job(source=clip, target=target), Options(overwrite=True, resume=False), engine=engine
    )
    return time.perf_counter() - started


def run_minterpolate(_: Engine, clip: Path) -> float:
    """Seconds of FFmpeg's filter, motion-compensated, between its own decoder and encoder."""
    started = time.perf_counter()
    with av.open(str(clip)) as source, av.open(str(clip.with_name("theirs.mp4")), "w") as target:
        video = source.streams.video[0]
        video.thread_type = "AUTO"
        rate = 2 * video.average_rate
        graph = Graph()
        rival = graph.add("minterpolate", f"fps={rate}:mi_mode=mci")
        chain = (graph.add_buffer(template=video), rival, graph.add("buffersink"))
        graph.link_nodes(*chain).configure()
        out = target.add_stream("libx264", rate, options=X264)
        out.width, out.height, out.pix_fmt = video.width, video.height, "yuv420p"
        out.codec_context.thread_type = "AUTO"
        for picture in (*source.decode(video), None):
            graph.vpush(picture)
            target.mux([packet for made in pulled(graph) for packet in out.encode(made)])
        target.mux(out.encode(None))
    return time.perf_counter() - started


def pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    """The frames that a filter has ready."""
    while True:
        try:
            picture = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        picture.time_base, picture.pict_type = (
            picture.time_base or Fraction(1, 50),
            PictureType.NONE,
        )
        yield picture


def write_clip(clips: Path, target: Path, size: tuple[int, int], count: int) -> None:
    """Frames of the clips of a folder, one after the other, scaled to a size; 25 a second."""
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", 25, options={"crf": "12"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for index, picture in enumerate(islice(pictures(clips), count)):
            scaled = picture.reformat(*size, "yuv420p")
            scaled.pts, scaled.time_base = index, Fraction(1, 25)
            scaled.pict_type = PictureType.NONE
            container.mux(stream.encode(scaled))
        container.mux(stream.encode(None))


def pictures(clips: Path) -> Iterator[av.VideoFrame]:
    """All pictures of a folder's clips, again and again."""
    for path in cycle(sorted(clips.glob("*.mp4"))):
        with av.open(str(path)) as container:
            yield from container.decode(video=0)
