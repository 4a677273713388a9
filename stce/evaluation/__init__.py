"""Is it true? Checks of a ranking against chance, known truth, rivals and other seeds."""
