"""The engine: order, exactness of held frames, halving, batches and memory."""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sepconv_video import color, devices
from sepconv_video.color import to_rgb
from sepconv_video.devices import choose_device, choose_dtype
from sepconv_video.engine import Engine, between
from sepconv_video.errors import DeviceError, OptionsError
from sepconv_video.frames import ColorSpec, Frame, Relation, VideoInfo
from sepconv_video.models import SepConv2017
from sepconv_video.options import Options
from sepconv_video.schedule import by_factor, by_rate, intervals

INFO = VideoInfo(
    path=Path("made up"),
    width=8,
    height=6,
    pix_fmt="yuv444p",
    bits=8,
    chroma_shift=(0, 0),
    color=ColorSpec(matrix="bt709", full_range=True),
    time_base=Fraction(1, 50),
    rate=Fraction(25),
    frame_count_from_header=None,
    sample_aspect_ratio=None,
)


def average(left, right):
    return (left + right) / 2


def gray_frame(index, level):
    planes = tuple(np.full((6, 8), value, np.uint8) for value in (level, 128, 128))
    return Frame(index=index, pts=2 * index, duration=2, planes=planes)


def gray_intervals(levels, held=(), grid=None):
    frames = [gray_frame(index, level) for index, level in enumerate(levels)]
    relations = [
        Relation.STILL if index - 1 in held else Relation.JOINED for index in range(len(frames))
    ]
    return intervals(zip(frames, relations, strict=True), grid or by_factor(INFO, 2))


def run(engine, made):
    return list(itertools.chain.from_iterable(engine.run(made, INFO)))


def levels_of(frames):
    return [int(frame.planes[0][0, 0]) for frame in frames]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_made_frames_are_in_time_order(factor):
    left, right = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    eighths = range(8 // factor, 8, 8 // factor)
    middle = between(average, left, right, [eighths, eighths])
    assert {frame.shape for frame in middle} == {(3, 4, 4)}
    assert [float(frame[0, 0, 0]) for frame in middle] == [n / 8 for n in eighths] * 2


@pytest.mark.parametrize(
    ("wanted", "batch", "sizes"),
    [
        ([range(1, 8)] * 3, None, [3, 6, 12]),
        ([range(1, 8)] * 3, 4, [3, 4, 2, 4, 4, 4]),
        ([{4}, {2}, {5, 7}], None, [3, 2, 2]),
        ([{3, 6}], None, [1, 2, 1]),
    ],
)
def test_only_what_is_needed_is_made(wanted, batch, sizes):
    found = []

    def model(left, right):
        found.append(len(left))
        return average(left, right)

    count = len(wanted)
    made = between(model, torch.zeros(count, 3, 4, 4), torch.ones(count, 3, 4, 4), wanted, batch)
    assert found == sizes
    expected = [position / 8 for positions in wanted for position in sorted(positions)]
    assert [float(frame[0, 0, 0]) for frame in made] == expected


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_frames_come_in_order_whatever_the_batch(batch):
    engine = Engine(average, batch=batch)
    made = run(engine, gray_intervals([0, 40, 80, 120, 160], grid=by_factor(INFO, 4)))
    assert levels_of(made) == [*range(0, 160, 10), 160, 160, 160, 160]
    assert [frame.index for frame in made] == list(range(20))
    assert [frame.pts for frame in made] == list(range(0, 40, 2))
    assert {frame.duration for frame in made} == {2}


@pytest.mark.parametrize("batch", [1, 4])
def test_held_intervals_show_the_nearer_source_frame(batch):
    engine = Engine(average, batch=batch)
    made = run(engine, gray_intervals([0, 40, 200, 240], held={1}, grid=by_factor(INFO, 4)))
    assert levels_of(made) == [0, 10, 20, 30, 40, 40, 40, 200, 200, 210, 220, 230] + [240] * 4


@pytest.mark.parametrize("batch", [1, 3])
def test_at_a_rate_frames_are_the_nearest_eighth(batch):
    grid = by_rate(INFO, Fraction(60))
    made = run(Engine(average, batch=batch), gray_intervals([0, 80, 160], grid=grid))
    # at 25 a second a frame of 60 comes every 5/12: 0, 3/8, 7/8 (0.83), 1/4, 5/8 (0.67) ...
    assert levels_of(made) == [0, 30, 70, 100, 130, 160, 160, 160]


def test_repeats_share_what_is_made_on_the_way():
    calls = []

    def model(left, right):
        calls.append(len(left))
        return average(left, right)

    frames = [gray_frame(0, 0), gray_frame(1, 1), gray_frame(2, 80)]
    relations = [Relation.JOINED, Relation.REPEAT, Relation.JOINED]
    found = intervals(zip(frames, relations, strict=True), by_factor(INFO, 2), dedup=True)
    made = run(Engine(model, batch=1), found)
    assert levels_of(made) == [0, 20, 40, 60, 80, 80]
    assert sum(calls) == 3


def test_source_frames_are_passed_on_untouched():
    found = list(gray_intervals([3, 77, 201]))
    made = run(Engine(average, batch=2), found)
    for position, interval in enumerate(found):
        assert made[2 * position].planes is interval.left.planes


def test_a_long_still_does_not_pile_up():
    taken = 0

    def endless():
        nonlocal taken
        for interval in gray_intervals([9] * 1000, held=set(range(1000))):
            taken += 1
            yield interval

    made = Engine(average, batch=2).run(endless(), INFO)
    next(made)
    assert taken <= 17  # two groups of 8, and one that showed the second to be full


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_frame_between_two_pairs_is_converted_once(monkeypatch, batch):
    converted = []

    def counted(planes, *rest):
        converted.append(len(planes[0]))
        return to_rgb(planes, *rest)

    monkeypatch.setattr(color, "to_rgb", counted)
    engine = Engine(average, batch=batch)
    for _ in range(2):  # of the next video no frame may be taken for one of this
        made = run(engine, gray_intervals([0, 40, 80, 120, 160, 200]))
        assert levels_of(made) == [*range(0, 200, 20), 200, 200]
        assert sum(converted) == 6
        assert max(converted) <= batch
        converted.clear()
    assert levels_of(run(engine, gray_intervals([100, 140]))) == [100, 120, 140, 140]


def test_out_of_memory_halves_the_batch_and_loses_nothing():
    sizes = []

    def greedy(left, right):
        sizes.append(len(left))
        if len(left) > 1:
            raise torch.OutOfMemoryError("too much")
        return average(left, right)

    engine = Engine(greedy, batch=4)
    made = run(engine, gray_intervals([0, 40, 80, 120, 160]))
    assert levels_of(made) == [0, 20, 40, 60, 80, 100, 120, 140, 160, 160]
    assert sizes[:2] == [4, 2]


def test_out_of_memory_with_one_pair_is_an_error_with_a_hint():
    def hopeless(left, right):
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(DeviceError, match="one pair of 8x6 frames does not fit") as caught:
        run(Engine(hopeless), gray_intervals([0, 40]))
    assert caught.value.hint == "close other programs"  # it is on the CPU already


def test_other_faults_of_the_model_are_not_taken_for_memory():
    def broken(left, right):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run(Engine(broken), gray_intervals([0, 40]))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: unspecified launch failure",
        "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",  # CuPy's, where it is first to see
        "cudaErrorIllegalAddress: an illegal memory access was encountered",
    ],
)
def test_a_lost_gpu_is_an_error_with_a_hint(message):
    def lost(left, right):
        raise RuntimeError(f"{message}\nlines of advice")

    with pytest.raises(DeviceError, match=rf"failed: {message}$") as caught:
        run(Engine(lost), gray_intervals([0, 40]))
    assert "run the same command again" in caught.value.hint


def test_inference_mode_does_not_leak_to_the_consumer():
    made = Engine(average).run(gray_intervals([0, 40, 80]), INFO)
    for _ in made:
        assert not torch.is_inference_mode_enabled()


def test_middle_of_two_pictures():
    left, right = np.zeros((5, 7, 3), np.uint8), np.full((5, 7, 3), 101, np.uint8)
    middle = Engine(average).pictures_between(left, right)[0]
    assert middle.dtype == np.uint8
    assert (middle == 51).all()


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(OptionsError, match="unknown device `tpu`"):
        choose_device("tpu")
    with pytest.raises(DeviceError, match="no device `cuda:99`"):
        choose_device("cuda:99")


def test_precision_on_a_gpu_and_on_cpus(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for has_units, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "has_bf16_units", lambda has_units=has_units: has_units)
        assert choose_dtype("auto", gpu) == torch.float16
        assert choose_dtype("bf16", gpu) == torch.bfloat16
        assert choose_dtype("auto", cpu) == wanted
        assert choose_dtype("auto", cpu, bf16_suffices=False) == torch.float32
        assert choose_dtype("fp32", cpu) == torch.float32
        with pytest.raises(OptionsError, match="slower than fp32"):
            choose_dtype("fp16", cpu)
    with pytest.raises(OptionsError, match="slower than fp32"):
        choose_dtype("bf16", cpu)
    monkeypatch.setattr(devices, "has_bf16_units", lambda: True)
    assert choose_dtype("bf16", cpu) == torch.bfloat16


@pytest.mark.parametrize(("name", "wanted"), [("fast", torch.bfloat16), ("2017", torch.float32)])
def test_auto_takes_bf16_where_it_is_fast_and_suffices(monkeypatch, tmp_path, name, wanted):
    """The network of 2017 would have its taps and frames in it too."""
    monkeypatch.setattr(devices, "has_bf16_units", lambda: True)
    if name == "2017":
        name = str(tmp_path / "weights.safetensors")
        save_file(SepConv2017().state_dict(), name)
    engine = Engine.from_options(Options(model=name, device="cpu"))
    assert engine.dtype == torch.float32  # that of the frames
    weights = engine._ladder._model.parameters()
    assert {parameter.dtype for parameter in weights} == {wanted}
