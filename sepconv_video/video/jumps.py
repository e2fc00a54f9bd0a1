"""Clocks that jump back within a file, as where two broadcast recordings were put together.

The picture goes on from there (see `clock`), so sound and text must by the same time. The main
video tells how far; where the others jump first, they wait for it.
"""

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from av.packet import Packet
from av.stream import Stream

_JUMP_S = 1
"""As in `clock`: a jump back by more is one of the file's clock."""
_SPREAD_S = 1
"""So long after the picture's jump others may still be before it."""
_MOST_WAITING = 1000
"""If so many packets wait, the picture's clock does not jump at all."""


@dataclass
class _Part:
    """What lies between two jumps; in seconds, and on the file's clock but for the offset."""

    number: int
    offset_s: Fraction
    first_s: Fraction | None = None
    """When the main video's first and latest packet are decoded."""
    last_s: Fraction | None = None


class Jumps:
    """Moves the packets after a jump back by what the main video's clock needs to go on."""

    def __init__(self, main: int) -> None:
        """Start before any jump; `main` is the index of the main video."""
        self._main = main
        self._part = _Part(0, Fraction(0))
        self._before: _Part | None = None
        self._shown: tuple[Fraction | None, Fraction | None] = (None, None)  # latest, one before
        self._numbers: dict[int, int] = {}  # the part that each other stream is in
        self._last_s: dict[int, Fraction] = {}
        self._waiting: deque[Packet[Stream]] = deque()

    def __call__(self, packet: "Packet[Stream] | None") -> "list[Packet[Stream]]":
        """Take a packet, or the end (None); give those whose times are known, moved."""
        if packet is None:
            return self._let_go()
        if packet.stream.index == self._main:
            has_jumped = self._follow(packet)
            return [*(self._let_go() if has_jumped else []), _moved(packet, self._part.offset_s)]
        if self._is_ahead(packet):
            self._waiting.append(packet)
            return self._let_go() if len(self._waiting) > _MOST_WAITING else []
        return [_moved(packet, self._offset_of(packet))]

    def _let_go(self) -> "list[Packet[Stream]]":
        ready = [_moved(packet, self._part.offset_s) for packet in self._waiting]
        for packet in self._waiting:
            self._numbers[packet.stream.index] = self._part.number
        self._waiting.clear()
        return ready

    def _follow(self, packet: "Packet[Stream]") -> bool:
        """Note the main video's times; tell whether its clock jumps back here."""
        if packet.dts is None or packet.pts is None:
            return False
        tick = Fraction(packet.time_base)
        dts_s, pts_s = packet.dts * tick, packet.pts * tick
        (latest, before), part = self._shown, self._part
        jumps = (
            part.last_s is not None
            and latest is not None
            and dts_s < part.last_s
            and pts_s + part.offset_s < latest - _JUMP_S
        )
        if jumps:
            assert latest is not None
            step = (packet.duration or 1) * tick if before is None else latest - before
            self._before = part
            self._part = part = _Part(part.number + 1, latest + step - pts_s)
        part.first_s = dts_s if part.first_s is None else part.first_s
        part.last_s = dts_s
        shown_s = pts_s + part.offset_s
        if latest is None or shown_s > latest:
            self._shown = shown_s, latest
        elif before is None or before < shown_s < latest:
            self._shown = latest, shown_s
        return jumps

    def _is_ahead(self, packet: "Packet[Stream]") -> bool:
        """Tell whether another stream's clock has jumped back before the picture's."""
        index, time_s = packet.stream.index, _decoded_s(packet)
        if any(waiting.stream.index == index for waiting in self._waiting):
            return True
        last_s = self._last_s.get(index)
        if time_s is not None:
            self._last_s[index] = time_s
        if time_s is None or last_s is None or self._part.last_s is None:
            return False
        is_back = time_s < min(last_s, self._part.last_s) - _JUMP_S
        return is_back and self._numbers.get(index, 0) == self._part.number

    def _offset_of(self, packet: "Packet[Stream]") -> Fraction:
        """Tell by how much to move a packet: is it from before the picture's jump or after it?"""
        index, time_s, part, before = (
            packet.stream.index,
            _decoded_s(packet),
            self._part,
            self._before,
        )
        if before is None or self._numbers.get(index) == part.number:
            return part.offset_s
        assert part.first_s is not None  # there was a jump
        assert part.last_s is not None
        assert before.last_s is not None
        if time_s is None:
            return before.offset_s
        is_early = part.last_s - part.first_s < _SPREAD_S
        if is_early and abs(time_s - before.last_s) < abs(time_s - part.last_s):
            return before.offset_s
        self._numbers[index] = part.number
        return part.offset_s


def _decoded_s(packet: "Packet[Stream]") -> Fraction | None:
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else ticks * Fraction(packet.time_base)


def _moved(packet: "Packet[Stream]", offset_s: Fraction) -> "Packet[Stream]":
    ticks = round(offset_s / packet.time_base)
    if ticks:
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
    return packet
