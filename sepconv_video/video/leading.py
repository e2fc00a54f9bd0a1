"""Decoding times of a video's first packets, which Matroska does not store.

Where there are B-frames FFmpeg tells them from the packets' order, but only once it has seen as
many as are shown in another order.
"""

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
