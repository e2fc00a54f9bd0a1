"""Black bars: found where they are, and nowhere else; what lies within them is made as if alone."""

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sepconv_video import color
from sepconv_video.bars import picture_area
from sepconv_video.engine import Engine
from sepconv_video.frames import ColorSpec, Frame, Relation, VideoInfo
from sepconv_video.schedule import by_factor, intervals
from sepconv_video.weights import load_model

ROWS, COLUMNS = 120, 200
WHOLE = (0, ROWS, 0, COLUMNS)
LETTERBOX = (15, 103, 0, COLUMNS)
BLACK = 16


def noise(seed, low, high, rows=ROWS, columns=COLUMNS):
    return np.random.default_rng(seed).integers(low, high, (rows, columns)).astype(np.uint8)


def barred(area, seed=0):
    """A bright picture, other for each seed, within bars that hold a little noise."""
    luma = noise(seed + 100, BLACK - 1, BLACK + 4)
    top, bottom, start, end = area
    luma[top:bottom, start:end] = noise(seed, 40, 220)[top:bottom, start:end]
    return luma


def area_in(left, right, black=BLACK, bits=8):
    return tuple(picture_area(left, right, black, bits))


@pytest.mark.parametrize(
    "area",
    [
        LETTERBOX,
        (0, ROWS, 25, 175),
        (15, 103, 25, 174),
        (0, ROWS, 66, 134),
        (1, 117, 4, 197),
        (0, 119, 0, COLUMNS),
        (46, 76, 0, COLUMNS),
        WHOLE,
    ],
)
def test_the_picture_is_found_to_the_line(area):
    assert area_in(barred(area), barred(area, 1)) == area


def test_bits_and_black_are_those_of_the_video():
    left, right = (barred(LETTERBOX, seed).astype(np.uint16) for seed in range(2))
    assert area_in(left * 4 + 3, right * 4, BLACK * 4, 10) == LETTERBOX
    assert area_in((left - BLACK + 1) * 256, (right - BLACK + 1) * 256, 0, 16) == LETTERBOX
    assert area_in(left.astype(np.uint8), right.astype(np.uint8), black=0) == WHOLE


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_a_line_between_bar_and_picture_is_left_to_the_bar(share):
    pair = [barred(LETTERBOX, seed) for seed in range(2)]
    for luma in pair:
        luma[15] = BLACK + share * (luma[15].astype(float) - BLACK)
        luma[102] = BLACK + share * (luma[102].astype(float) - BLACK)
    assert area_in(*pair) == (16, 102, 0, COLUMNS)


def test_a_subtitle_in_a_bar_is_part_of_it_as_long_as_it_stands():
    pair = [barred(LETTERBOX, seed) for seed in range(2)]
    text = noise(7, 0, 2, 8, 80) * 200 + BLACK
    for luma in pair:
        luma[107:115, 60:140] = text
    assert area_in(*pair) == LETTERBOX
    pair[1][107:115, 60:140] = np.roll(text, 3, 1)
    assert area_in(*pair) == (15, ROWS, 0, COLUMNS)
    pair[1][107:115, 60:140] = BLACK
    assert area_in(*pair) == (15, ROWS, 0, COLUMNS)


def whole(luma):
    return area_in(luma, luma) == WHOLE


def test_what_is_dark_in_a_picture_is_no_bar():
    assert whole(np.full((ROWS, COLUMNS), BLACK, np.uint8))
    # a night sky over a town: it does not begin along a line
    town = noise(0, BLACK, BLACK + 3)
    heights = np.random.default_rng(1).integers(20, 60, COLUMNS)
    town[np.arange(ROWS)[:, None] > heights] = 90
    assert whole(town)
    # letters on black
    title = np.full((ROWS, COLUMNS), BLACK, np.uint8)
    title[50:70, 60:140] = noise(2, 0, 2, 20, 80) * 200 + BLACK
    assert whole(title)
    # hardly anything between the bars
    assert whole(barred((50, 70, 0, COLUMNS)))


def test_a_lamp_in_the_night_is_no_noise_of_a_bar():
    pair = [barred((60, ROWS, 0, COLUMNS), seed) for seed in range(2)]
    assert area_in(*pair) == (60, ROWS, 0, COLUMNS)
    for step, luma in enumerate(pair):
        luma[20:22, 100 + 3 * step : 102 + 3 * step] = 200
    assert area_in(*pair) == WHOLE


def test_an_edge_that_moves_is_none_of_a_bar():
    left, right = barred(LETTERBOX), barred((18, 106, 0, COLUMNS))
    assert area_in(left, right) == WHOLE
    # compression may blur it by a line
    assert area_in(left, barred((16, 103, 0, COLUMNS))) == (16, 103, 0, COLUMNS)
    # only one of the frames has any: a picture that fades in
    assert area_in(np.full_like(left, BLACK), right) == WHOLE
    assert area_in(barred(WHOLE), right) == WHOLE


INFO = VideoInfo(
    path=Path("made up"),
    width=COLUMNS,
    height=ROWS,
    pix_fmt="yuv444p",
    bits=8,
    chroma_shift=(0, 0),
    color=ColorSpec(matrix="bt709", full_range=False),
    time_base=Fraction(1, 50),
    rate=Fraction(25),
    frame_count_from_header=None,
    sample_aspect_ratio=None,
)


def panning(count, area, step=6):
    """Grey frames of a picture that pans, each within bars of its own."""
    texture = torch.nn.functional.interpolate(
        torch.from_numpy(noise(3, 30, 230, ROWS // 4, COLUMNS))[None, None].float(),
        scale_factor=4,
        mode="bicubic",
    )[0, 0].clamp(30, 230)
    frames = []
    for index in range(count):
        picture = texture[:ROWS, index * step : index * step + COLUMNS].numpy().astype(np.uint8)
        luma = np.full((ROWS, COLUMNS), BLACK, np.uint8)
        top, bottom, start, end = area[index]
        luma[top:bottom, start:end] = picture[top:bottom, start:end]
        frames.append(Frame(index=index, pts=2 * index, duration=2, planes=(luma,)))
    return frames


def cropped(frames, area):
    top, bottom, start, end = area
    return [replace(f, planes=(f.planes[0][top:bottom, start:end],)) for f in frames]


def made_of(frames, *, batch=None, model=None, factor=2):
    rows, columns = frames[0].planes[0].shape
    info = replace(INFO, width=columns, height=rows, pix_fmt="gray", chroma_shift=None)
    related = [(frame, Relation.JOINED) for frame in frames]
    engine = Engine(model or load_model("fast", torch.device("cpu")), batch=batch)
    shown = engine.run(intervals(related, by_factor(info, factor)), info)
    return [frame.planes[0] for frame in itertools.chain.from_iterable(shown)]


@pytest.mark.parametrize("batch", [1, 3])
def test_within_bars_the_picture_is_made_as_if_it_were_alone(batch):
    area = (15, 103, 8, 192)
    frames = panning(5, [area] * 5)
    alone = made_of(cropped(frames, area), batch=batch, factor=4)
    made = made_of(frames, batch=batch, factor=4)
    top, bottom, start, end = area
    assert len(made) == len(alone) == 20
    for frame, picture in zip(made, alone, strict=True):
        assert np.array_equal(frame[top:bottom, start:end], picture)
        frame[top:bottom, start:end] = BLACK
        assert (frame == BLACK).all()


def test_bars_may_come_and_go_whatever_the_batch():
    """Motion found in one part of the frames is not taken for that of another."""
    areas = [LETTERBOX] * 4 + [WHOLE] * 3 + [(15, 103, 8, 192)] * 3
    frames = panning(len(areas), areas)
    one, three = (np.array(made_of(frames, batch=batch), int) for batch in (1, 3))
    assert len(one) == 20
    assert np.abs(one - three).max() <= 1


def test_a_network_is_given_pictures_only():
    seen = []

    def average(left, right):
        seen.append(tuple(left.shape))
        return (left + right) / 2

    areas = [LETTERBOX] * 3 + [WHOLE] * 2
    made_of(panning(5, areas), batch=4, model=average)
    assert seen == [(2, 3, 88, COLUMNS), (2, 3, ROWS, COLUMNS)]


def test_of_two_pictures_too():
    area = (15, 103, 8, 192)
    left, right = (
        np.repeat(frame.planes[0][..., None], 3, 2) - BLACK for frame in panning(2, [area] * 2)
    )
    engine = Engine(load_model("fast", torch.device("cpu")))
    top, bottom, start, end = area
    part = slice(top, bottom), slice(start, end)
    middle = engine.pictures_between(left, right)[0]
    assert np.array_equal(middle[part], engine.pictures_between(left[part], right[part])[0])
    middle[part] = 0
    assert not middle.any()


def test_brightness_is_luma_or_the_greatest_of_rgb():
    planes = tuple(np.full((4, 6), level, np.uint8) for level in (10, 30, 20))
    frame = Frame(index=0, pts=0, duration=1, planes=planes)
    light, black = color.brightness(frame, INFO)
    assert (light == 10).all()
    assert black == 16
    rgb = replace(INFO, pix_fmt="gbrp", color=ColorSpec(matrix="rgb", full_range=True))
    light, black = color.brightness(frame, rgb)
    assert (light == 30).all()
    assert black == 0
