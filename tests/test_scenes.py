from itertools import permutations

import av
import numpy as np
import pytest

from sepconv_video.frames import Frame
from sepconv_video.scenes import CUT_SCORE, cut_score, is_cut, is_duplicate

SIZE = (180, 320)


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


def score(left, right):
    return cut_score(frame(left), frame(right), 8)


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_other_textures_are_cuts(bits):
    for first, second in permutations(range(4), 2):
        assert is_cut(frame(texture(first), bits), frame(texture(second), bits), bits)


def test_score_does_not_depend_on_the_depth():
    scores = [cut_score(frame(texture(1), b), frame(texture(2), b), b) for b in (8, 10, 12, 16)]
    assert max(scores) - min(scores) < 0.02


@pytest.mark.parametrize("shift", [(0, 4), (6, 3), (0, 16), (-10, 10)])
def test_a_pan_is_no_cut(shift):
    for seed in range(4):
        wide = texture(seed, (SIZE[0] + 20, SIZE[1] + 20))
        left = wide[10 : 10 + SIZE[0], :-20]
        right = wide[10 + shift[0] :, max(shift[1], 0) :][: SIZE[0], : SIZE[1]]
        assert score(left, right) < CUT_SCORE - 0.1


@pytest.mark.parametrize(
    "flash", [lambda i: i * 1.4, lambda i: i + 40, lambda i: i * 0.6 + 90, lambda i: i * 0.5]
)
def test_a_flash_is_no_cut(flash):
    for seed in range(4):
        image = texture(seed) * 0.8
        assert score(image, flash(image)) < CUT_SCORE - 0.1
        assert score(flash(image), image) < CUT_SCORE - 0.1


def test_a_dissolve_is_no_cut():
    first, second = texture(1), texture(2)
    for k in range(8):
        left, right = (first + (second - first) * t / 8 for t in (k, k + 1))
        assert score(left, right) < CUT_SCORE - 0.1


def test_grain_is_no_cut_and_hides_none():
    rng = np.random.default_rng(0)
    for dark in (1, 0.1):
        first, second = (16 + dark * (texture(seed) - 16) for seed in (1, 2))
        for left, right, cut in ((first, first, False), (first, second, True)):
            noisy = [image + rng.normal(0, 4 * dark, SIZE) for image in (left, right)]
            assert (score(*noisy) >= CUT_SCORE) == cut


def test_flat_grain_is_no_cut():
    rng = np.random.default_rng(0)
    left, right = (40 + rng.normal(0, 6, SIZE) for _ in range(2))
    assert score(left, right) < CUT_SCORE


def test_from_black_is_a_cut():
    assert score(np.full(SIZE, 16.0), texture(1)) >= CUT_SCORE


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3), (33, 65), (181, 321), (720, 404)])
def test_any_size(size):
    image = texture(1, size) if min(size) > 9 else np.full(size, 99.0)
    assert score(image, image) == 0
    assert score(image, image * 0.8) < CUT_SCORE


def test_duplicates_are_equal_to_the_last_sample():
    luma, chroma = np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8)
    other = chroma.copy()
    other[1, 2] = 1
    first, same, changed = (
        Frame(index=k, pts=k, duration=1, planes=(luma.copy(), chroma, v))
        for k, v in enumerate((chroma, chroma.copy(), other))
    )
    assert is_duplicate(first, same)
    assert not is_duplicate(first, changed)


def small_luma(path, count=8):
    with av.open(path) as container:
        for _, image in zip(range(count), container.decode(video=0), strict=False):
            small = image.reformat(width=SIZE[1], height=SIZE[0], format="gray")
            yield np.frombuffer(small.planes[0], np.uint8).reshape(SIZE[0], -1)[:, : SIZE[1]]


def test_hard_cuts_between_real_clips(shared):
    clips = [list(small_luma(p)) for p in sorted((shared / "data" / "val").glob("*.mp4"))]
    cuts = [score(a[-1], b[0]) for a, b in permutations(clips, 2)]
    shots = [score(c[k], c[k + s]) for c in clips for s in (1, 2) for k in range(len(c) - s)]
    hits = sum(s >= CUT_SCORE for s in cuts)
    alarms = sum(s >= CUT_SCORE for s in shots)
    assert 2 * hits / (hits + alarms + len(cuts)) >= 0.95
    assert alarms == 0
