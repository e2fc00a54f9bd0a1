"""A labelled set of short sequences for judging detectors of cuts.

A *cut* is at frame n when n is the first frame of a picture taken from another view: another
clip; a moment of the same clip at least 24 frames away whose background is another one (clips
of `MOVING`, whose camera follows something); the same moment seen from much nearer (a punch-in
to half the width or less); or a black, white or other picture that stays for 4 frames or more.
The change is complete from one frame to the next. No cut is what returns within 3 frames (a
flash, an inserted picture), what takes more than one frame (fades, dissolves), and whatever
camera, light and objects do within a shot. A jump in time with the camera unmoved is none of
both: such sequences, kind `jump`, are told apart and count neither as hits nor as false.

All is drawn from fixed seeds, from clips of one folder and from photographs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # (360, 640, 3), BGR
Shot = list[Picture]

SIZE = (640, 360)
MOVING = (
    "bmx-trees car-shadow car-roundabout drift-straight lady-running libby motocross parkour "
    "rollercoaster soapbox horsejump scooter"
)
FAST = "drift-straight motocross libby bmx-trees tennis parkour highway_curve scooter horsejump"
STATIC = "asl_ gmdcsa_s1 gmdcsa_s4 val_friday val_audience val_skater"
ALIKE = ("pexels_9046237", "p2s_", "val_highway", "davis_dr", "flutter_b", "sam2_0")


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Frames with the truth about them."""

    kind: str
    frames: Shot
    cuts: tuple[int, ...] = ()
    bits: int = 8
    """Depth the frames stand for; 10 says that `planes` adds two bits of noise."""

    def planes(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Y, U, V of each frame, 4:2:0, full range, uint8 or uint16."""
        rng = np.random.default_rng(len(self.frames))
        wide, high = SIZE
        for picture in self.frames:
            codes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
            if self.bits > 8:
                codes = codes.astype(np.uint16) << (self.bits - 8)
                codes += rng.integers(0, 1 << (self.bits - 8), codes.shape, np.uint16)
            chroma = codes[high:].reshape(2, high // 2, wide // 2)
            yield codes[:high], chroma[0], chroma[1]


@lru_cache(maxsize=24)
def shot(path: Path) -> Shot:
    """All frames of a clip, cropped and scaled to fill 640x360."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (picture := capture.read()[1]) is not None:
        frames.append(_filled(picture))
    return frames


def _filled(picture: Picture) -> Picture:
    high, wide = picture.shape[:2]
    if wide * SIZE[1] > high * SIZE[0]:
        margin = (wide - high * SIZE[0] // SIZE[1]) // 2
        picture = picture[:, margin : wide - margin]
    else:
        margin = (high - wide * SIZE[1] // SIZE[0]) // 2
        picture = picture[margin : high - margin]
    return cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)


def _codes(values: np.ndarray) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class Drawer:
    """Draws sequences from the clips of a folder and from photographs."""

    def __init__(self, clips: list[Path], photographs: list[Path], seed: int) -> None:
        """Draw from these files; the same seed draws the same."""
        self.rng = np.random.default_rng(seed)
        self.clips, self.photographs = clips, photographs

    def clip(self, among: str = "", apart_from: Path | None = None) -> Path:
        """A clip whose name contains one of the words."""
        words = among.split()
        paths = [p for p in self.clips if not words or any(w in p.name for w in words)]
        paths = [p for p in paths if p != apart_from]
        return paths[self.rng.integers(len(paths))]

    def part(self, path: Path, length: int) -> Shot:
        """So many frames of a clip, from a random one on (fewer, if it has no more)."""
        frames = shot(path)
        first = int(self.rng.integers(max(len(frames) - length, 0) + 1))
        return frames[first : first + length]

    def shots(self, count: int, shortest: int, longest: int) -> list[Shot]:
        """Parts of clips of different views."""
        paths: list[Path] = []
        while len(paths) < count:
            path = self.clip(apart_from=paths[-1] if paths else None)
            if not paths or _view(path) != _view(paths[-1]):
                paths.append(path)
        lengths = self.rng.integers(shortest, longest + 1, count)
        return [self.part(p, int(n)) for p, n in zip(paths, lengths, strict=True)]

    def photograph(self) -> Picture:
        """A photograph, 1280 wide."""
        path = self.photographs[self.rng.integers(len(self.photographs))]
        picture = cv2.imread(str(path))
        high = round(1280 / picture.shape[1] * picture.shape[0])
        return cv2.resize(picture, (1280, max(high, 720)), interpolation=cv2.INTER_AREA)


def _view(path: Path) -> str:
    """What clips of one camera's view have in common."""
    name = path.stem
    return "asl" if name.startswith("asl_") else name[:9] if name.startswith("gmdcsa") else name


def joined(kind: str, shots: list[Shot], bits: int = 8) -> Sequence:
    """Shots one after the other; every seam is a cut."""
    seams = np.cumsum([len(s) for s in shots])[:-1]
    frames = [picture for s in shots for picture in s]
    return Sequence(kind=kind, frames=frames, cuts=tuple(map(int, seams)), bits=bits)


# --- with cuts -----------------------------------------------------------------------------


def cut(d: Drawer) -> Sequence:
    return joined("cut", d.shots(4, 14, 22))


def cut_10_bit(d: Drawer) -> Sequence:
    return joined("cut, 10 bit", d.shots(4, 12, 16), bits=10)


def cut_of_short_shots(d: Drawer) -> Sequence:
    return joined("cut, shots of 5-12", d.shots(6, 5, 12))


def cut_in_the_dark(d: Drawer) -> Sequence:
    gain, noise = d.rng.uniform(0.08, 0.2), d.rng.uniform(0.5, 2.5)
    plain = joined("cut, dark and noisy", d.shots(4, 10, 16), bits=int(d.rng.choice([8, 10])))
    return _changed(plain, lambda p: _codes(p * gain + d.rng.normal(0, noise, p.shape)))


def cut_of_low_contrast(d: Drawer) -> Sequence:
    gain, base = d.rng.uniform(0.15, 0.35), d.rng.uniform(60, 130)
    plain = joined("cut, low contrast", d.shots(4, 10, 16))
    return _changed(plain, lambda p: _codes(p * gain + base))


def cut_between_alike(d: Drawer) -> Sequence:
    groups = [[p for p in d.clips if p.name.startswith(g)] for g in ALIKE]
    groups = [g for g in groups if len(g) > 1]
    group = groups[d.rng.integers(len(groups))]
    paths = [group[k] for k in d.rng.permutation(len(group))[:4]]
    return joined("cut, alike", [d.part(p, 14) for p in paths])


def cut_within_a_clip(d: Drawer) -> Sequence:
    frames = shot(d.clip(MOVING))
    gap = min(len(frames) - 9, 40)
    first = int(d.rng.integers(0, len(frames) - gap - 7)) if len(frames) > gap + 7 else 0
    return joined(
        "cut, same clip", [frames[first : first + 8], frames[first + gap : first + gap + 8]]
    )


def punch_in(d: Drawer) -> Sequence:
    frames = d.part(d.clip(), 24)
    size = d.rng.uniform(0.35, 0.5)
    x, y = d.rng.uniform(0, 1 - size, 2)
    near = [_crop(p, x, y, size) for p in frames[12:]]
    return joined("cut, punch-in", [frames[:12], near])


def cut_to_plain(d: Drawer) -> Sequence:
    level = int(d.rng.choice([0, 16, 250]))
    one, two = d.shots(2, 12, 16)
    plain = [np.full_like(one[0], level)] * int(d.rng.integers(5, 12))
    return joined("cut, to and from plain", [one, plain, two])


# --- without -------------------------------------------------------------------------------


def fade(d: Drawer) -> Sequence:
    level, length = d.rng.choice([0, 255]), int(d.rng.integers(6, 25))
    one, two = d.shots(2, length + 6, length + 6)
    frames = list(one[:-length])
    for k, p in enumerate(one[-length:]):
        frames.append(_mixed(p, level, (k + 1) / length))
    frames += [_mixed(two[0], level, 1)] * int(d.rng.integers(0, 8))
    for k, p in enumerate(two[:length]):
        frames.append(_mixed(p, level, 1 - (k + 1) / length))
    return Sequence(kind="fade", frames=frames + two[length:])


def dissolve(d: Drawer) -> Sequence:
    length = int(d.rng.integers(6, 25))
    one, two = d.shots(2, length + 8, length + 8)
    length = min(length, len(one) - 2, len(two) - 2)
    shares = (np.arange(length) + 1) / (length + 1)
    mixed = [_mixed(a, b, s) for a, b, s in zip(one[-length:], two[:length], shares, strict=True)]
    return Sequence(kind="dissolve", frames=[*one[:-length], *mixed, *two[length:]])


def flash(d: Drawer) -> Sequence:
    """One or two flashes of 1 to 3 frames in a shot of one clip."""
    frames = list(d.part(d.clip(), 36))
    light = FLASHES[d.rng.integers(len(FLASHES))](d)
    for first in (8, 19)[: int(d.rng.integers(1, 3))]:
        for k in range(first, min(first + int(d.rng.integers(1, 4)), len(frames))):
            frames[k] = light(frames[k])
    return Sequence(kind="flash", frames=frames, bits=int(d.rng.choice([8, 10])))


Light = Callable[[Picture], Picture]


def _white(d: Drawer) -> Light:
    level = d.rng.choice([255, 255, 0])
    return lambda p: np.full_like(p, level)


def _partly_white(d: Drawer) -> Light:
    share = d.rng.uniform(0.4, 0.9)
    return lambda p: _mixed(p, 255, share)


def _overexposed(d: Drawer) -> Light:
    gain = d.rng.uniform(2, 4)
    return lambda p: _codes(p * gain + 10)


def _coloured(d: Drawer) -> Light:
    colour, share = d.rng.integers(0, 256, 3), d.rng.uniform(0.4, 0.9)
    return lambda p: _mixed(p, colour, share)


def _lightning(d: Drawer) -> Light:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    cx, cy = d.rng.uniform(0, SIZE[0]), d.rng.uniform(0, SIZE[1])
    spread, gain = d.rng.uniform(80, 300), d.rng.uniform(2, 5)
    glow = 1 + gain * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
    return lambda p: _codes(p * glow[..., None] + 30 * (glow[..., None] - 1))


def _other_picture(d: Drawer) -> Light:
    other = _filled(d.photograph())
    return lambda _: other


FLASHES = (_white, _partly_white, _overexposed, _coloured, _lightning, _other_picture)


def pan(d: Drawer) -> Sequence:
    """A crop moving over a photograph at 2 to 15 % of its width a frame, half with blur."""
    picture, step = d.photograph(), d.rng.uniform(0.02, 0.15) * 640
    blur = int(d.rng.choice([1, 4]))
    room = picture.shape[1] - 640
    angle = d.rng.uniform(-0.3, 0.3)
    frames = []
    for k in range(24):
        parts = []
        for j in range(blur):
            travelled = (k + 0.6 * j / blur) * step
            x = room - abs(travelled % (2 * room) - room)
            y = (picture.shape[0] - 360) * (0.5 + 0.4 * np.sin(angle * k))
            parts.append(cv2.getRectSubPix(picture, SIZE, (x + 320, y + 180)))
        frames.append(_codes(np.mean(parts, axis=0)))
    return Sequence(kind="fast pan", frames=frames)


def fast_clip(d: Drawer) -> Sequence:
    frames = shot(d.clip(FAST))
    return Sequence(kind="fast clip, stride 2-3", frames=frames[:: int(d.rng.integers(2, 4))])


def shake(d: Drawer) -> Sequence:
    reach = d.rng.uniform(0.01, 0.05)
    frames = [
        _crop(p, 0.1 + d.rng.uniform(-reach, reach), 0.1 + d.rng.uniform(-reach, reach), 0.8)
        for p in d.part(d.clip(), 24)
    ]
    return Sequence(kind="shake", frames=frames)


def zoom(d: Drawer) -> Sequence:
    speed = d.rng.uniform(0.01, 0.06)
    frames = []
    for k, p in enumerate(d.part(d.clip(), 18)):
        size = max(1 / (1 + speed) ** k, 0.3)
        frames.append(_crop(p, (1 - size) / 2, (1 - size) / 2, size))
    return Sequence(kind="zoom", frames=frames[:: int(d.rng.choice([-1, 1]))])


def dark(d: Drawer) -> Sequence:
    gain, noise = d.rng.uniform(0.04, 0.2), d.rng.uniform(1, 4)
    plain = Sequence(kind="dark and noisy", frames=d.part(d.clip(), 24))
    return _changed(plain, lambda p: _codes(p * gain + d.rng.normal(0, noise, p.shape)))


def text(d: Drawer) -> Sequence:
    """A title, on a band or not, that appears and goes at once."""
    frames, band = [p.copy() for p in d.part(d.clip(), 24)], bool(d.rng.integers(2))
    y, size = int(d.rng.integers(80, 320)), d.rng.uniform(1, 3)
    for p in frames[8:18]:
        if band:
            p[y - 60 : y + 20] = 30
        cv2.putText(p, "A title of some length", (20, y), 0, size, (250, 250, 250), 4)
    return Sequence(kind="text", frames=frames)


def repeats(d: Drawer) -> Sequence:
    """A shot played on twos and threes at twice or three times its speed."""
    often = int(d.rng.integers(2, 4))
    source = d.part(d.clip(), 36)[::often]
    return Sequence(kind="repeats", frames=[p for p in source for _ in range(often)])


def plain(d: Drawer) -> Sequence:
    return Sequence(kind="as it is", frames=d.part(d.clip(), 40))


def jump(d: Drawer) -> Sequence:
    """The same view at another time."""
    path = d.clip(STATIC)
    same = [p for p in d.clips if _view(p) == _view(path)]
    other = same[d.rng.integers(len(same))]
    return joined("jump", [d.part(path, 12), shot(other)[-12:]])


def _changed(sequence: Sequence, change: Light) -> Sequence:
    frames = [change(p) for p in sequence.frames]
    return Sequence(kind=sequence.kind, frames=frames, cuts=sequence.cuts, bits=sequence.bits)


def _mixed(picture: Picture, other: Picture | int | np.ndarray, share: float) -> Picture:
    return _codes(picture * (1 - share) + np.asarray(other) * share)


def _crop(picture: Picture, x: float, y: float, size: float) -> Picture:
    """The part from (x, y) on, so large, all in shares of the picture, scaled up."""
    matrix = np.array([[size, 0, x * SIZE[0]], [0, size, y * SIZE[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT)


WITH_CUTS = (
    cut, cut, cut_10_bit, cut_of_short_shots, cut_in_the_dark, cut_of_low_contrast,
    cut_between_alike, cut_within_a_clip, cut_within_a_clip, punch_in, punch_in, cut_to_plain,
)  # fmt: skip
WITHOUT = (
    fade, dissolve, flash, flash, flash, flash, pan, pan, pan, fast_clip, fast_clip, shake,
    zoom, dark, text, repeats, plain, jump,
)  # fmt: skip


def labelled(data: Path, split: str, rounds: int) -> Iterator[Sequence]:
    """Draw every kind of sequence so many times, one after the other.

    Args:
        data: The folder `shared/data`.
        split: `train` or `val`; photographs are shared out between them too.
        rounds: How often each kind is drawn (those named twice above, twice).

    Yields:
        Sequences, the same ones for the same arguments.
    """
    clips = sorted((data / split).glob("*.mp4"))
    photographs = sorted((data / "images").iterdir())[split == "val" :: 2]
    for k in range(rounds):
        for place, draw in enumerate((*WITH_CUTS, *WITHOUT)):
            yield draw(Drawer(clips, photographs, seed=1000 * k + place))
