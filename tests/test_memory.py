"""The ladder: what is chosen by the memory there is, and the steps down when that was too much.

`pytest -s tests/test_memory.py -k bytes` prints what the constants are compared with.
"""

import itertools
import json
import mmap
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import ClipSpec, make_clip
from test_engine import INFO, average, levels_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sepconv_video import memory
from sepconv_video.engine import Engine
from sepconv_video.errors import DeviceError, OptionsError
from sepconv_video.frames import Frame, Relation
from sepconv_video.memory import (
    FRAME_BYTES_PER_PIXEL,
    MADE_BYTES_PER_PIXEL,
    Ladder,
    free_host_bytes,
)
from sepconv_video.models import NETWORKS
from sepconv_video.models.tiles import SMALLEST_TILE
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.production import identity_of
from sepconv_video.schedule import by_factor, intervals
from sepconv_video.weights import load_model

CPU = torch.device("cpu")
GIB, MIB = 2**30, 2**20
TOO_MUCH = torch.OutOfMemoryError("too much")
TILED = [name for name, network in NETWORKS.items() if hasattr(network, "bytes_per_pixel")]


class Averager:
    """A network that knows tiles, and fails where it sees more pixels at once than it may."""

    halo, bytes_per_pixel, frame_bytes_per_pixel = 32, 1000, 0

    def __init__(self, most_pixels=10**9, error=TOO_MUCH):
        self.most, self.error, self.calls = most_pixels, error, []

    def __call__(self, left, right, tile=None):
        count, _, height, width = left.shape
        side = tile or max(height, width)
        self.calls.append((count, tile))
        if count * min(side, height) * min(side, width) > self.most:
            raise self.error
        return average(left, right)


def run_large(engine, width=640, height=384, count=3, factor=2):
    """Levels of what an engine makes of flat frames, a step of 40 apart."""
    info = replace(INFO, width=width, height=height)
    frames = [
        Frame(
            index=index,
            pts=2 * index,
            duration=2,
            planes=tuple(np.full((height, width), v, np.uint8) for v in (40 * index, 128, 128)),
        )
        for index in range(count)
    ]
    found = intervals(zip(frames, [Relation.JOINED] * count, strict=True), by_factor(info, factor))
    return levels_of(itertools.chain.from_iterable(engine.run(found, info, factor - 1)))


@pytest.fixture
def _plenty(monkeypatch):
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 1000 * GIB)


def with_memory(monkeypatch, size):
    monkeypatch.setattr(memory, "free_host_bytes", lambda: size)


@pytest.mark.usefixtures("_plenty")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried 9 bytes"),
    ],
)
def test_out_of_memory_goes_down_to_tiles_and_stays_there(error):
    model = Averager(384 * 320, error)
    engine = Engine(model, batch=4)
    assert run_large(engine, count=6) == [0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 200]
    assert model.calls[:4] == [(4, None), (2, None), (1, None), (1, 320)]
    assert set(model.calls[3:]) == {(1, 320)}
    assert engine.notes == [
        "a pair of 640x384 frames does not fit into the memory of `cpu`: used tiles of 320 pixels"
    ]
    model.calls.clear()
    run_large(engine)  # the next video of this size
    assert set(model.calls) == {(1, 320)}
    run_large(engine, 8, 6)
    assert model.calls[-1][1] is None
    assert engine.notes == []


@pytest.mark.usefixtures("_plenty")
def test_below_the_smallest_tile_there_is_nothing():
    model = Averager(0)
    with pytest.raises(DeviceError, match="640x384 frames does not fit, not even in tiles of 256"):
        run_large(Engine(model, batch=1))
    assert [tile for _, tile in model.calls] == [None, 320, SMALLEST_TILE]


@pytest.mark.usefixtures("_plenty")
def test_a_smaller_batch_than_asked_for_is_told():
    engine = Engine(Averager(640 * 384), batch=2)
    run_large(engine)
    assert engine.notes == ["a batch of 2 does not fit into the memory of `cpu`: used 1"]


@pytest.mark.usefixtures("_plenty")
def test_a_forced_tile_is_used_without_a_note():
    model = Averager()
    engine = Engine(model, tile=300)
    assert run_large(engine) == [0, 20, 40, 60, 80, 80]
    assert set(model.calls) == {(1, 300)}
    assert engine.notes == []


def test_a_plain_function_is_never_given_tiles(monkeypatch):
    with_memory(monkeypatch, 1)
    engine = Engine(average)
    assert run_large(engine) == [0, 20, 40, 60, 80, 80]
    assert engine.notes == []
    with pytest.raises(OptionsError, match="cannot work in tiles"):
        Engine(average, tile=256)


@pytest.mark.parametrize(("gib", "tiled"), [(8, False), (0.5, True), (0.01, True)])
def test_on_a_cpu_the_tile_fits_the_memory_beforehand(monkeypatch, gib, tiled):
    with_memory(monkeypatch, int(gib * GIB))
    ladder = Ladder(Averager(), CPU, torch.float32)
    ladder.begin(1000, 600, made=1)
    assert (ladder.tile is not None) is tiled
    assert ladder.batch == 1
    assert bool(ladder.notes) is tiled
    if tiled:
        assert SMALLEST_TILE <= ladder.tile < 1000
        room = memory.SHARE * gib * GIB - (FRAME_BYTES_PER_PIXEL + MADE_BYTES_PER_PIXEL) * 600_000
        seen = min(1000, ladder.tile + 64) * min(600, ladder.tile + 64)
        assert seen * 1000 <= room or ladder.tile == SMALLEST_TILE


@pytest.mark.parametrize(
    ("size", "batch"), [((64, 48), 8), ((640, 360), 4), ((1024, 512), 2), ((1280, 720), 1)]
)
def test_on_a_cpu_small_frames_come_in_batches(monkeypatch, size, batch):
    with_memory(monkeypatch, 64 * GIB)
    ladder = Ladder(Averager(), CPU, torch.float32)
    ladder.begin(*size, made=1)
    assert ladder.batch == batch
    assert not ladder.notes
    with_memory(monkeypatch, GIB // 256)
    for tile in (None, 300):
        ladder = Ladder(Averager(), CPU, torch.float32, tile=tile)
        ladder.begin(*size, made=1)
        assert ladder.batch == 1


@pytest.mark.parametrize(
    ("size", "batch"), [((448, 256), 32), ((1280, 720), 18), ((1920, 1080), 8), ((3840, 2160), 2)]
)
def test_on_a_gpu_batches_hold_as_many_pixels(monkeypatch, size, batch):
    for free, wanted in ((139 * GIB, batch), (GIB // 64, 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        ladder = Ladder(Averager(), torch.device("cuda"), torch.float16)
        ladder.begin(*size, made=1)
        assert ladder.batch == wanted


@pytest.mark.parametrize(
    ("size", "batch", "tiled"),
    [((7680, 4320), None, False), ((8192, 5120), None, True), ((1920, 1080), 32, True)],
)
def test_a_gpu_never_sees_more_than_pytorch_counts(monkeypatch, size, batch, tiled):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000 * GIB)
    ladder = Ladder(Averager(), torch.device("cuda"), torch.float16, batch)
    ladder.begin(*size, made=1)
    assert (ladder.tile is not None) is tiled
    side = (ladder.tile or size[0]) + 2 * Averager.halo
    assert ladder.batch * min(size[0], side) * min(size[1], side) <= memory.MOST_SEEN["cuda"]


def test_what_is_made_of_a_pair_counts_when_the_tile_is_chosen(monkeypatch):
    with_memory(monkeypatch, GIB)
    ladder, tiles = Ladder(Averager(), CPU, torch.float32), []
    for made in (1, 3, 7):
        ladder.begin(2000, 1500, made)
        tiles.append(ladder.tile)
    assert tiles == sorted(set(tiles), reverse=True)


def test_a_forced_batch_counts_when_the_tile_is_chosen(monkeypatch):
    with_memory(monkeypatch, 2 * GIB)
    tiles = []
    for batch in (1, 2, 4):
        ladder = Ladder(Averager(), CPU, torch.float32, batch)
        ladder.begin(1000, 600, made=1)
        assert ladder.batch == batch
        tiles.append(ladder.tile)
    assert tiles[0] is None
    assert tiles[2] < (tiles[1] or 1000)


@pytest.mark.usefixtures("_plenty")
def test_pictures_go_down_the_ladder_too():
    model = Averager(600 * 500)
    engine = Engine(model)
    left, right = np.zeros((600, 1000, 3), np.uint8), np.full((600, 1000, 3), 101, np.uint8)
    assert (engine.pictures_between(left, right)[0] == 51).all()
    assert model.calls == [(1, None), (1, 500)]
    assert len(engine.notes) == 1


def test_the_report_tells_of_tiles_once(tmp_path, monkeypatch):
    with_memory(monkeypatch, 1)
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=4, width=320, height=64))
    job = Job(source=source, target=tmp_path / "made.mp4")
    report = interpolate_file(job, engine=Engine(Averager()))
    told = [note for note in report.notes if "tiles" in note]
    assert told == [
        "a pair of 320x64 frames does not fit into the memory of `cpu`: used tiles of 256 pixels"
    ]
    # made in tiles or not, what is finished is finished: the result is the same
    assert identity_of(job, Options(tile=256, batch=4)) == identity_of(job, Options())


PROC = {
    "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n",
    "proc/self/status": "Name:\tpython\nVmSize:\t 1000 kB\nVmData:\t  500 kB\n",
    "proc/self/limits": "Limit  Soft Limit  Hard Limit  Units\n"
    "Max data size             unlimited            unlimited            bytes     \n"
    "Max address space         unlimited            unlimited            bytes     \n",
    "proc/self/cgroup": "4:memory:/a/b\n1:cpu:/a\n0::/box:1\n",
}


def free_with(root, **changed):
    for name, text in (PROC | {k.replace("__", "."): v for k, v in changed.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return free_host_bytes(root) // 1024


def limits(kind, kib):
    return PROC["proc/self/limits"].replace(f"{kind:26}unlimited ", f"{kind:26}{kib * 1024} ", 1)


def test_free_memory_is_the_least_that_any_limit_leaves(tmp_path):
    assert free_host_bytes(tmp_path) == sys.maxsize
    assert free_with(tmp_path) == 8000
    assert free_with(tmp_path, **{"proc/self/limits": limits("Max address space", 7000)}) == 6000
    assert free_with(tmp_path, **{"proc/self/limits": limits("Max data size", 7000)}) == 6500
    assert free_with(tmp_path, **{"proc/self/limits": limits("Max data size", 100)}) == 0


def test_control_groups_limit_from_above_and_give_back_their_cache(tmp_path):
    box = {
        "sys/fs/cgroup/box:1/memory.max": f"{5000 * 1024}\n",
        "sys/fs/cgroup/box:1/memory.current": f"{3000 * 1024}\n",
        "sys/fs/cgroup/box:1/memory.stat": f"anon 7\ninactive_file {1000 * 1024}\n",
    }
    assert free_with(tmp_path, **box) == 3000
    old = {
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{2000 * 1024}\n",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{500 * 1024}\n",
        "sys/fs/cgroup/memory/a/memory.stat": "total_inactive_file 0\n",
    }
    assert free_with(tmp_path, **old) == 1500
    assert free_with(tmp_path, **{"sys/fs/cgroup/box:1/memory.max": "max\n"}) == 1500


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, as a caching allocator would see them."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self._seen = 0, 0, {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage):
        import weakref

        if storage._cdata in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage._cdata] = weakref.finalize(storage, self._free, storage._cdata, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _free(self, key, size):
        del self._seen[key]
        self.live -= size


def networks_bytes(network, side=250):  # 256 with all borders
    left, right = torch.rand(2, 1, 3, side, side)
    model = network().eval()
    with torch.inference_mode():
        model(left, right)  # what weights become for a CPU stays, however large frames are
        with Peak() as peak:
            model(left, right)
    return peak.peak / side**2


@pytest.mark.parametrize("name", TILED)
def test_bytes_per_pixel_of_a_network_are_as_measured(name):
    """The constant is of a process, with what the libraries take; the tensors are most of it."""
    found, said = networks_bytes(NETWORKS[name]), NETWORKS[name].bytes_per_pixel
    print(f"{name}: tensors {found:.0f} bytes per pixel, constant {said}")
    assert found <= said <= 2 * found


def frames_bytes(model, factor, tile=None):
    """Of a size that networks have to pad; each frame has neighbours that they look at.

    By one thread: what others were to help with lives until they have seen that it is done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Peak() as peak:
            run_large(Engine(model, batch=1, tile=tile), 636, 372, count=6, factor=factor)
    finally:
        torch.set_num_threads(threads)
    return peak.peak / (636 * 372)


@pytest.mark.usefixtures("_plenty")
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bytes_per_pixel_of_frames_are_as_measured(factor):
    found = frames_bytes(Averager(), factor)
    said = FRAME_BYTES_PER_PIXEL + MADE_BYTES_PER_PIXEL * (factor - 1)
    print(f"frames at factor {factor}: {found:.0f} bytes per pixel, constants {said}")
    assert found <= said <= 1.2 * found


@pytest.mark.usefixtures("_plenty")
@pytest.mark.parametrize("name", TILED)
def test_bytes_per_pixel_that_a_network_keeps_of_frames_are_as_measured(name, monkeypatch):
    model = NETWORKS[name]().eval()
    # all but the work on the pieces
    monkeypatch.setattr(model, "_predict", lambda *given: given[-3].clone())
    monkeypatch.setattr(model, "halo", 0, raising=False)
    found = frames_bytes(model, 2, tile=64) - frames_bytes(average, 2)
    said = model.frame_bytes_per_pixel
    print(f"{name}: keeps {found:.0f} bytes per pixel of a frame, constant {said}")
    assert found <= said <= 1.2 * found


def under_limit(*arguments, seconds=120):
    """What `limited.py` tells."""
    script = Path(__file__).with_name("limited.py")
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-500:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


KEPT = """
import resource, sys
from pathlib import Path
import torch
from sepconv_video.memory import give_back_freed, keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "kept":
    keep_freed()
torch.ones(2**27, dtype=torch.uint8)  # a gap of the very size may be too small for what is aligned
first = faults()
torch.ones(2**26, dtype=torch.uint8)
second, held = faults(), resident()
give_back_freed()
print(second - first, held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept_for_the_next_frame_and_can_be_given_back(kept):
    command = [sys.executable, "-c", KEPT, "kept" if kept else "not kept"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    faults, given_back = map(int, done.stdout.split())
    pages = 2**26 // mmap.PAGESIZE
    assert (faults < pages / 10) == kept
    assert (given_back > pages * 0.9) == kept


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_what_does_not_fit_whole_is_made_in_tiles_under_a_limit():
    plenty, tight, whole = under_limit("hungry", 640, 400, 300 * MIB)
    assert plenty["notes"] == []
    assert "used tiles of" in tight["notes"][0]
    assert tight["error"] is None
    assert tight["sums"] == plenty["sums"]
    assert "640x400 frames does not fit on `cpu`" in whole["error"]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "in_tiles"), [(3840, 2160, False), (7680, 4320, True)])
def test_large_frames_of_fast_fit_into_8_gb(width, height, in_tiles):
    (found,) = under_limit("fast", width, height, 8 * GIB, seconds=1800)
    print(f"{width}x{height}: {found}")
    assert found["error"] is None
    assert ["used tiles of" in note for note in found["notes"]] == [True] * in_tiles
    assert found["address_space"] <= 8 * GIB


@pytest.mark.cuda
def test_a_gpu_with_little_memory_makes_the_same_in_tiles():
    """The limit is not told by `mem_get_info`: the ladder has to find it."""
    device, total = torch.device("cuda"), torch.cuda.get_device_properties(0).total_memory
    model = load_model("fast", device)
    left, right = np.random.default_rng(1).integers(0, 256, (2, 1088, 1920, 3), np.uint8)
    whole = Engine(model, device=device).pictures_between(left, right)[0]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(GIB / total)
    try:
        engine = Engine(model, device=device)
        made = engine.pictures_between(left, right)[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "used tiles of" in engine.notes[0]
    assert np.abs(made.astype(int) - whole).max() <= 1
