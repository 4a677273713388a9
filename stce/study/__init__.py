"""The notebooks as a study with parameters: named runs, their stages, and what they found.

``python -m stce.study`` runs them; nothing is imported until it is asked for.
"""

from importlib import import_module

__all__ = ["Finished", "Run", "execute"]

_PLACES = {"Finished": "finished", "Run": "run", "execute": "make"}


def __getattr__(name: str):
    if name in _PLACES:
        return getattr(import_module(f"stce.study.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
