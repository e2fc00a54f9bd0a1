"""The first packets of a stream: what they lack, and what of them is not meant to be heard.

Matroska does not store when a video's packets are decoded. Where there are B-frames FFmpeg tells
it from their order, but only once it has seen as many as are shown in another order.
"""

from collections import deque

from av.packet import Packet
from av.stream import Stream

_MOST_HELD = 32
"""Twice as many as any codec puts in another order."""


class Leading:
    """The first packets of a video stream, held until one of them says when it is decoded."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._held: list[Packet[Stream]] = []
        self._is_over = False

    def __call__(self, packet: "Packet[Stream] | None") -> "list[Packet[Stream]]":
        """Take a packet, or the end (None); give those whose times are known."""
        if packet is not None:
            if self._is_over:
                return [packet]
            self._held.append(packet)
            if packet.dts is None and packet.pts is not None and len(self._held) < _MOST_HELD:
                return []
        self._is_over, ready, self._held = True, self._held, []
        _count_back(ready)
        return ready


def _count_back(packets: "list[Packet[Stream]]") -> None:
    """Give decoding times to the first packets: a duration apart, up to the first known one."""
    shown = [packet.pts for packet in packets if packet.pts is not None]
    known = next((place for place, packet in enumerate(packets) if packet.dts is not None), None)
    if known is not None:
        dts = packets[known].dts
        missing = packets[:known]
    else:
        dts, missing = min(shown, default=None), packets
    for packet in reversed(missing):
        if dts is None:
            return
        dts -= packet.duration or 1
        packet.dts = dts


class Hidden:
    """Sound that an MP4's edit list hides, on its way into a container without such lists.

    It is left out, or it would be heard; but for the last of it before what is heard, without
    which decoders get that wrong.
    """

    def __init__(self, codec: str) -> None:
        """Hold nothing; `codec` is the sound's."""
        # Opus wants 80 ms (RFC 7845, 4.6), mostly in packets of 20; the others one packet
        self._last: deque[Packet[Stream]] = deque(maxlen=4 if codec == "opus" else 1)

    def __call__(self, packet: "Packet[Stream]") -> "list[Packet[Stream]]":
        """Take a packet; give those that belong into the output."""
        if packet.is_discard:
            self._last.append(packet)
            return []
        ready = [*self._last, packet]
        self._last.clear()
        return ready
