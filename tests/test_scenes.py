"""Cuts, flashes, stills and repeats, on made pictures and on the labelled set of scripts/."""

import importlib.util
import io
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise, permutations

import av
import numpy as np
import pytest
from conftest import ROOT
from held import blends
from hypothesis import given, settings
from hypothesis import strategies as st

from sepconv_video.frames import Frame, Relation
from sepconv_video.scenes import (
    CONTEXT_FRAMES,
    LOOK_AHEAD,
    Sketch,
    cut_score,
    is_repeat,
    is_still,
    relations,
)

SIZE = (180, 320)
JOINED, STILL, FLASH, CUT = Relation.JOINED, Relation.STILL, Relation.FLASH, Relation.CUT


def texture(seed, size=SIZE):
    """Smooth random waves with some edges, 8 bits, as (rows, columns) of float."""
    rng = np.random.default_rng(seed)
    rows, columns = size
    y, x = np.mgrid[:rows, :columns]
    image = np.zeros(size)
    for scale in (90, 40, 17, 8):
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / scale + phase)
        image += scale**0.5 * (wave + (wave > rng.uniform(-0.5, 0.5)))
    image = (image - image.min()) / (image.max() - image.min())
    return 16 + 219 * image ** rng.uniform(0.5, 2)


def frame(image, bits=8):
    codes = np.clip(np.round(image * 2 ** (bits - 8)), 0, 2**bits - 1)
    luma = codes.astype(np.uint8 if bits == 8 else np.uint16)
    return Frame(index=0, pts=0, duration=1, planes=(luma,))


def score(left, right, bits=8):
    return cut_score(*(Sketch.of(frame(image, bits).planes[0], bits) for image in (left, right)))


def clip(images, bits=8, starts=()):
    """Frames of the images, numbered."""
    return [
        Frame(index=k, pts=k, duration=1, planes=frame(i, bits).planes, begins_shot=k in starts)
        for k, i in enumerate(images)
    ]


def judged(images, bits=8):
    images = list(images)
    found = list(relations(clip(images, bits), bits))
    assert [f.index for f, _ in found] == list(range(len(images)))
    return [verdict for _, verdict in found]


def drifting(seed, count, step=2):
    """A shot whose camera pans slowly."""
    wide = texture(seed, (SIZE[0], SIZE[1] + step * count))
    return [wide[:, step * k : step * k + SIZE[1]] for k in range(count)]


def faded(level, length):
    """A shot that fades to a level and back."""
    shares = np.r_[0 : 1 : (length + 1) * 1j, 1, 1, 1, 1 : 0 : (length + 1) * 1j]
    return [i + (level - i) * s for i, s in zip(drifting(2, len(shares)), shares, strict=True)]


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_other_textures_are_cuts(bits):
    for first, second in permutations(range(3), 2):
        found = judged(drifting(first, 5) + drifting(second, 5), bits)
        assert found == [JOINED] * 5 + [CUT] + [JOINED] * 4


def test_score_does_not_depend_on_the_depth():
    scores = [score(texture(1), texture(2), bits) for bits in (8, 10, 12, 16)]
    assert max(scores) - min(scores) < 0.02


@pytest.mark.parametrize("length", [5, 8, 12])
def test_short_shots(length):
    found = judged([image for seed in range(5) for image in drifting(seed, length)])
    assert [k for k, verdict in enumerate(found) if verdict is CUT] == [
        length * k for k in range(1, 5)
    ]
    assert found.count(JOINED) == len(found) - 4


BARS = {
    "letterbox": (slice(None, 30), slice(-30, None)),
    "pillars": ((slice(None), slice(None, 60)), (slice(None), slice(-60, None))),
}


def within(bars, images):
    """What is left of a film on a screen of another shape, with a subtitle in the lower bar."""
    for image in images:
        film = image.copy()
        for bar in BARS[bars]:
            film[bar] = 16
        if bars == "letterbox":
            film[-20:-10, 60:260:10] = 235
        yield film


@pytest.mark.parametrize("bars", BARS)
def test_bars_and_subtitles_in_them_hide_no_cut(bars):
    for first, second in permutations(range(4), 2):
        images = drifting(first, 5) + drifting(second, 5)
        assert judged(within(bars, images)) == [JOINED] * 5 + [CUT] + [JOINED] * 4


@pytest.mark.parametrize("bars", BARS)
@pytest.mark.parametrize("length", [4, 8])
def test_a_fade_within_bars_is_no_cut(bars, length):
    assert set(judged(within(bars, faded(16, length)))) <= {JOINED, STILL}


@pytest.mark.parametrize("step", [4, 16, 32, 48])
def test_a_pan_is_no_cut(step):
    """Up to 15 % of the width a frame."""
    for seed in range(4):
        assert set(judged(drifting(seed, 9, step))) == {JOINED}


LIGHTS = {
    "white": lambda i: np.full_like(i, 255),
    "black": lambda i: np.full_like(i, 16),
    "other": lambda _: texture(3),
}


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("name", LIGHTS)
def test_a_flash_is_no_cut_if_it_is_short(name, length):
    images = drifting(1, 16)
    for k in range(6, 6 + length):
        images[k] = LIGHTS[name](images[k])
    found = judged(images)
    sides = {found.pop(6 + length), found.pop(6)}
    assert sides == {FLASH if length <= 3 else CUT}
    assert set(found) <= {JOINED, STILL}


def test_a_flash_that_leaves_the_picture_visible_is_nothing():
    images = drifting(1, 12)
    images[5:7] = [np.minimum(image * 1.6, 255) for image in images[5:7]]
    assert set(judged(images)) == {JOINED}


@pytest.mark.parametrize("length", [4, 8, 24])
@pytest.mark.parametrize("level", [16, 235])
def test_a_fade_is_no_cut(level, length):
    assert set(judged(faded(level, length))) <= {JOINED, STILL}


@pytest.mark.parametrize("length", [3, 8])
def test_a_dissolve_is_no_cut(length):
    first, second = texture(1), texture(2)
    images = [first + (second - first) * t / length for t in range(length + 1)]
    assert CUT not in judged([first] * 4 + images + [second] * 4)


@pytest.mark.parametrize("dark", [1, 0.1])
def test_grain_is_no_cut_and_hides_none(dark):
    rng = np.random.default_rng(0)
    shots = [16 + dark * (texture(seed) - 16) for seed in (1, 1, 1, 1, 2, 2, 2, 2)]
    found = judged([image + rng.normal(0, 4 * dark, SIZE) for image in shots])
    # where it is dark the grain is as faint as what compression does
    found = [JOINED if relation is Relation.REPEAT else relation for relation in found]
    assert found == [JOINED] * 4 + [CUT] + [JOINED] * 3


def test_flat_grain_is_no_cut():
    rng = np.random.default_rng(0)
    assert set(judged([40 + rng.normal(0, 6, SIZE) for _ in range(9)])) == {JOINED}


def test_from_black_is_a_cut():
    found = judged([np.full(SIZE, 16.0)] * 5 + drifting(1, 5))
    assert found == [JOINED] + [STILL] * 4 + [CUT] + [JOINED] * 4


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3), (33, 65), (181, 321), (720, 404)])
def test_any_size(size):
    image = texture(1, size) if min(size) > 9 else np.full(size, 99.0)
    assert score(image, image) == 0
    assert judged([image, image * 0.8, image, image * 0.8]) == [JOINED] * 4
    assert is_repeat(frame(image), frame(image + 0.2), 8)
    assert not is_repeat(frame(image), frame(image + 20), 8)


def test_what_the_stream_calls_a_new_shot_is_one():
    small = texture(1, (90, 160))
    frames = clip([*drifting(1, 4), small, small, small, *drifting(1, 4)], starts=(4, 7))
    found = [verdict for _, verdict in relations(frames, 8)]
    assert found == [JOINED] * 4 + [CUT, STILL, STILL, CUT] + [JOINED] * 3


def test_looks_so_far_ahead_and_no_further():
    read = []
    frames = (read.append(f.index) or f for f in clip(drifting(1, 12)))
    for seen, _ in relations(frames, 8):
        assert read[-1] == min(seen.index + LOOK_AHEAD, 11)
    assert [v for _, v in relations(iter(()), 8)] == []


KINDS = st.sampled_from(["pan", "still", "cut", "flash", "black", "fast"])


def eventful(kinds):
    """A small clip in which everything comes close together."""
    wide = {seed: texture(seed, (27, 320)) for seed in range(3)}
    seed = place = 0
    for kind in kinds:
        seed = (seed + (kind == "cut")) % 3
        place = (place + {"still": 0, "fast": 17}.get(kind, 1)) % 270
        image = wide[seed][:, place : place + 48]
        yield {"flash": np.full_like(image, 250), "black": image * 0.02 + 16}.get(kind, image)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(KINDS, min_size=12, max_size=18), st.integers(0, 11), st.integers(1, 9))
def test_spans_judge_as_the_whole(kinds, first, length):
    """Several workers share a long video: what one says must not depend on where it began."""
    frames = clip(eventful(kinds))
    whole = [verdict for _, verdict in relations(frames, 8)]
    end = min(first + length, len(frames))
    part = frames[max(first - CONTEXT_FRAMES, 0) : end + LOOK_AHEAD]
    found = {f.index: verdict for f, verdict in relations(part, 8)}
    assert [found[k] for k in range(first, end)] == whole[first:end]


def test_duplicates_are_equal_to_the_last_sample():
    luma, chroma = np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8)
    other = chroma.copy()
    other[1, 2] = 1
    first, same, changed = (
        Frame(index=k, pts=k, duration=1, planes=(luma.copy(), chroma, v))
        for k, v in enumerate((chroma, chroma.copy(), other))
    )
    assert is_still(first, same)
    assert not is_still(first, changed)


def played(images, often, crf):
    """The images, each shown so often, through H.264."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=24, width=SIZE[1], height=SIZE[0])
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        for k in range(len(images) * often):
            codes = np.clip(images[k // often], 0, 255).astype(np.uint8)
            shown = av.VideoFrame.from_ndarray(codes, "gray").reformat(format="yuv420p")
            shown.pts, shown.time_base = k, Fraction(1, 24)
            output.mux(stream.encode(shown))
        output.mux(stream.encode(None))
    target.seek(0)
    with av.open(target) as source:
        lumas = [decoded.to_ndarray(format="gray") for decoded in source.decode(video=0)]
    return [Frame(index=k, pts=k, duration=1, planes=(a,)) for k, a in enumerate(lumas)]


def talking(count):
    """A still picture in which a mouth of 10 x 14 samples opens a little."""
    for k in range(count):
        image = texture(3).copy()
        image[100:116, 150:164] = 110
        image[106 - 2 * (k % 3) : 108 + 2 * (k % 3), 152:162] = 20
        yield image


@pytest.mark.parametrize("crf", [18, 23])
@pytest.mark.parametrize("often", [1, 2, 3])
def test_repeats_are_told_from_small_motion(often, crf):
    for images in (drifting(1, 8, step=1), list(talking(8))):
        frames = played(images, often, crf)
        found = [is_repeat(*pair, 8) for pair in pairwise(frames)]
        assert not any(found[often - 1 :: often])
        # the encoder improves some repeats visibly, e.g. those at a key frame
        assert sum(found) >= 0.8 * (len(images) * (often - 1))


def test_repeats_count_every_plane_and_any_depth():
    luma, chroma = np.zeros((20, 30), np.uint16), np.full((10, 15), 512, np.uint16)
    other = chroma.copy()
    other[:8, :8] += 80
    first, second = (
        Frame(index=0, pts=0, duration=1, planes=(luma, chroma, v)) for v in (chroma, other)
    )
    assert is_repeat(first, first, 10)
    assert not is_repeat(first, second, 10)
    assert is_repeat(first, second, 16)  # 80 of 65535 is nothing


def labelled_set():
    path = ROOT / "scripts" / "cut_set.py"
    spec = importlib.util.spec_from_file_location("cut_set", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cut_set"] = module
    spec.loader.exec_module(module)
    return module


def test_labelled_set_of_real_clips(shared):
    """Hard cuts among fades, flashes, pans and dark scenes; the table is of judge_cuts.py."""
    count = Counter()
    for sequence in labelled_set().labelled(shared / "data", "val", rounds=1):
        frames = [
            Frame(index=k, pts=k, duration=1, planes=planes)
            for k, planes in enumerate(sequence.planes())
        ]
        found = {f.index for f, verdict in relations(frames, sequence.bits) if verdict is CUT}
        if sequence.kind != "jump":
            count["hits"] += len(found & set(sequence.cuts))
            count["errors"] += len(found ^ set(sequence.cuts))
    assert count["hits"] >= 25
    assert 2 * count["hits"] / (2 * count["hits"] + count["errors"]) >= 0.95


def test_a_blend_across_a_cut_is_noticed():
    """What the tests of whole files rely on."""
    dark, bright = (np.full((4, 4), level, np.uint8) for level in (20, 200))
    source = [(Fraction(0), (dark,)), (Fraction(1), (bright,)), (Fraction(2), (bright,))]
    between = {"left": dark, "right": bright, "blend": dark // 2 + bright // 2}
    for name, image in between.items():
        made = [source[0], (Fraction(1, 2), (image,)), *source[1:]]
        assert blends([1], source, made) == ([1] if name == "blend" else [])
        assert blends([2], source, made) == []
