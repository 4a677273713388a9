"""What is missing of a film, told by its packets and frames."""

import av
import numpy as np

# A film is refused if a larger share of its frames is lost or corrupt, if more than half of them
# are drawn from such ones, or if a tenth is cut off: lengths in headers are rounded, and decoders
# keep a few frames back, which is not worth a note either.
MOST_LOST, MOST_SPOILT, MOST_CUT, KEPT_BACK = 0.05, 0.5, 0.1, 5
HOLE = 300  # bytes between two packets, above what is usual in a file, that belong to none


def losses(film, packets, frames, times, failed):
    """Say what is missing of a film, "" for nothing, and whether it can be used all the same.

    Parameters
    ----------
    film : tuple of av.container.InputContainer and av.video.stream.VideoStream
        The file and the stream that was decoded.
    packets : list of (stream, time, duration, place, size)
        Of all streams, in ticks of each and in bytes.
    frames : list of (time, duration, corrupt, spoilt)
        In ticks; those are spoilt that are drawn from what is corrupt or lost.
    times, failed : (T + 1,) float, and int
        When the frames are shown (s, from the first) and end; packets that are not decoded.
    """
    (container, stream), kind = film, film[0].format.name
    which, start, lasting, place, size = np.array(packets, float).T
    stamps, durations, corrupt, spoilt = np.array(frames, float).T
    times, step = times[:-1], np.median(np.diff(times)[: max(1, len(times) - 2)])
    held = np.maximum(durations[np.argsort(stamps)] * float(stream.time_base), step)
    gaps = (np.diff(times) - held[:-1]) / step
    lost = failed
    if _has_hole(kind, place, size, gaps):
        lost = max(lost, round(gaps[gaps > 0.5].sum()))
    damaged, total = int(corrupt.sum()) + lost, len(times) + lost
    usable = damaged <= MOST_LOST * total and spoilt.mean() <= MOST_SPOILT
    shown = length = times[-1] + held[-1]
    read = np.nan_to_num(place + size).max(initial=0) / max(container.size, 1)
    with open(container.name.removeprefix("file:"), "rb") as file:  # FLV may state its size
        stated = b"filesize\0" + np.array(container.size, ">f8").tobytes() in file.read(4096)
    if kind == "avi" and stream.frames:
        # The duration is guessed where the index, at the end, is lost.
        length = stream.frames / float(stream.average_rate or stream.base_rate or 25)
    elif stated:
        length = shown  # a last frame is held
    elif kind.startswith("mov") and 0 < len(stream.index_entries) <= stream.frames:
        n_read = ((which == stream.index) & (size > 0)).sum()  # edits may begin late, and cut
        length = shown * len(stream.index_entries) / n_read
    elif stream.duration:
        length = float(stream.duration * stream.time_base)
    elif container.duration:  # counts from zero, and is that of the sound if it lasts longer
        tick = np.array([float(s.time_base or 0) for s in container.streams])[which.astype(int)]
        length = container.duration / av.time_base
        shown = np.nan_to_num((start + np.nan_to_num(lasting)) * tick).max(initial=shown)
    elif kind in ("matroska,webm", "flv") and 0 < read < 1 - MOST_CUT:
        length = shown / read
    if shown < (1 - MOST_CUT) * length - step:
        return f"it ends after {shown:.1f} s of {length:.1f} s", False
    cut = round((length - shown) / max(step, shown / len(times)))
    if cut > KEPT_BACK:
        damaged, total = damaged + cut, total + cut
    text = f"{damaged} of its {total} frames are lost or corrupt ({damaged / total:.1%})"
    if spoilt.sum() > corrupt.sum():
        text += f", and {spoilt.sum():.0f} are drawn from such ones"
    return text if damaged else "", usable


def _has_hole(kind, place, size, gaps):
    """Tell whether bytes between the packets of a file are of none, so that gaps in time are lost.

    Only where packets are laid end to end. An MPEG programme does not say where they are, but has a
    constant rate: two frames that lack are told by the time, as the time of one is a guess.
    """
    if kind not in ("matroska,webm", "flv", "mpegts"):
        return kind == "mpeg" and gaps.max(initial=0) > 1.5
    order = np.argsort(place)[: np.isfinite(place).sum()]
    place, size = place[order], size[order]
    between = place[1:] - np.maximum.accumulate(place + size)[:-1] - size[:-1] / 10
    return bool(between.size and between.max() > np.median(between) + HOLE)
