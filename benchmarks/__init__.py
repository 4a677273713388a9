"""The bench: how fast each step is, side by side with a plain way to do the same.

``nox -s bench`` or ``python -m benchmarks``; see `benchmarks.__main__`.
"""
