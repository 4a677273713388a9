"""Videos of any length and size, read one at a time, and their cache on disk.

`Videos` is what a data set's `load` returns; `cache` decodes and resizes each video once and
returns `CachedVideos`, from which training draws random clips and `stce.clips.middle_clips` takes
the middle ones. `decode` reads a video file, `moments` gives a data set's mean and deviation.
"""

from stce.videos.cached import CachedVideos, cache
from stce.videos.decoding import decode
from stce.videos.frames import moments
from stce.videos.sources import Videos

__all__ = ["CachedVideos", "Videos", "cache", "decode", "moments"]
