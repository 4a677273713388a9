"""Step 1 of the study: a network trained and evaluated (paper 4.1)."""

from stce.training.loop import OPTIONS, SCHEDULES, evaluate, learning_rate, train

__all__ = ["OPTIONS", "SCHEDULES", "evaluate", "learning_rate", "train"]
