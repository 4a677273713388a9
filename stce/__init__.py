"""Spatial-temporal concept-based explanation of 3D ConvNets.

The package holds one module for each step of the method; nothing is imported until it is asked for.

- `stce.clips`: `Clips` (fixed length), `resize`, `middle_clips`
- `stce.videos`: `Videos` (variable length), `CachedVideos`, `decode`, `cache`, `moments`
- `stce.datasets`: `load(name, split)` for the known data sets and for a folder of one's own
- `stce.video`: frames to an in-memory H.264 video for a page
"""

__version__ = "0.1.0"
