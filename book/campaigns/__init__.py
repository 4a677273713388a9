"""Small studies repeated over seeds: ``python -m book.campaigns NAME --seeds 0-19``."""
