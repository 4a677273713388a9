"""The notebooks as a study with parameters: named runs, their stages, and what they found.

``python -m stce.study`` runs them; nothing is imported until it is asked for.
"""

__all__ = ["Run", "execute"]


def __getattr__(name: str):
    if name == "Run":
        from stce.study.run import Run

        return Run
    if name == "execute":
        from stce.study.make import execute

        return execute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
