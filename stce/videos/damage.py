"""What is missing of a film, told by its packets and frames as they are read."""

import av
import numpy as np

# A film is refused if a larger share of its frames is lost or corrupt, if more than half of them
# are drawn from such ones, or if a tenth is cut off: lengths in headers are rounded, and decoders
# keep a few frames back, which is not worth a note either.
MOST_LOST, MOST_SPOILT, MOST_CUT, KEPT_BACK = 0.05, 0.5, 0.1, 5
# Bytes between two packets, above what is usual in a file, that are a hole in it.
HOLE = 600


class Log:
    """Notes on a film's packets and frames; `errors` are those of packets that were not decoded."""

    def __init__(self):
        self.errors, self.stamps, self._durations, self._packets = [], [], [], []
        self._n_corrupt, self._n_spoilt, self._spoilt = 0, 0, False

    def packet(self, packet):
        """Note a packet, whatever stream it is of."""
        if packet.size:  # the last ones are empty
            start = packet.dts if packet.pts is None else packet.pts
            one = packet.stream_index, start, packet.duration, packet.pos, packet.size
            self._packets.append(one)

    def error(self, error):
        """Note why a packet was not decoded; frames until the next key frame are drawn from it."""
        self.errors.append(error)
        self._spoilt = True

    def frame(self, frame):
        """Note a frame, and return its index."""
        self.stamps.append(frame.pts)
        self._durations.append(frame.duration)
        self._spoilt = frame.is_corrupt or (self._spoilt and not frame.key_frame)
        self._n_corrupt += frame.is_corrupt
        self._n_spoilt += self._spoilt
        return len(self.stamps) - 1

    def verdict(self, container, stream, times, step):
        """Say in words what is missing, "" for nothing, and whether the film can still be used.

        `times` are those of the frames, in seconds from the first, and `step` is the usual one.
        """
        which, start, lasting, place, size = np.array(self._packets, float).reshape(-1, 5).T
        tick = np.array([float(s.time_base or 0) for s in container.streams])[which.astype(int)]
        start, end = start * tick, (start + np.nan_to_num(lasting)) * tick
        ours, held = which == stream.index, np.full(len(times), step)
        stated = None not in self.stamps and len(set(self.stamps)) == len(self.stamps)
        if stated:
            durations = np.array(self._durations)[np.argsort(self.stamps)]
            held = np.maximum(durations * float(stream.time_base), step)
        lost, apart = len(self.errors), np.diff(times)
        gaps = (apart - held[:-1]) / step
        if _has_hole(container.format.name, place, size, gaps):
            lost = max(lost, round(gaps[gaps > 0.5].sum()))
        elif stated and len(apart):  # packets between two frames that made none
            sent = start[ours] - min(self.stamps) * float(stream.time_base) + step / 4
            i = np.clip(np.searchsorted(times, sent) - 1, 0, len(apart) - 1)
            between = (sent - times[i] > step / 2) & (sent < times[i + 1]) & (apart[i] > 1.5 * step)
            lost = max(lost, int(between.sum()))
        shown = times[-1] + held[-1]
        length, shown = _length(container, stream, shown, end, place + size)
        if shown < (1 - MOST_CUT) * length - step:
            return f"it ends after {shown:.1f} s of {length:.1f} s", False
        cut = round((length - shown) / step)
        lost += cut if cut > KEPT_BACK else 0
        damaged, total = self._n_corrupt + lost, len(times) + lost
        text = f"{damaged} of its {total} frames are lost or corrupt ({damaged / total:.1%})"
        if self._n_spoilt > self._n_corrupt:
            text += f", and {self._n_spoilt} are drawn from such ones"
        usable = damaged <= MOST_LOST * total and self._n_spoilt <= MOST_SPOILT * total
        return text if damaged else "", usable


def _has_hole(kind, place, size, gaps):
    """Tell whether bytes between the packets of a file are of none, so that gaps in time are lost.

    Only where packets are laid end to end. An MPEG programme does not say where they are, but has a
    constant rate: two frames that lack are told by the time, as the time of one is a guess.
    """
    if kind not in ("matroska,webm", "flv", "mpegts"):
        return kind == "mpeg" and gaps.max(initial=0) > 1.5
    order = np.argsort(place)
    place, size = place[order], size[order]
    between = place[1:] - np.maximum.accumulate(place + size)[:-1] - size[:-1] / 10
    return bool(np.any(between > np.median(between) + HOLE)) if between.size else False


def _length(container, stream, shown, end, place):
    """Return the length that a file states (s), or how much is shown, and how much is shown.

    A stream's own length counts from its first frame, that of the whole file from zero.
    """
    if container.format.name == "avi" and stream.frames:
        # The duration is guessed where the index, at the end, is lost.
        return stream.frames / float(stream.average_rate or stream.base_rate or 25), shown
    if stream.duration:
        return float(stream.duration * stream.time_base), shown
    if container.duration:  # the sound may be longer
        return container.duration / av.time_base, np.nan_to_num(end).max(initial=shown)
    read = np.nan_to_num(place).max(initial=0) / max(container.size, 1)
    unread = container.format.name in ("matroska,webm", "flv") and read < 1 - MOST_CUT
    return shown / read if unread and read else shown, shown
