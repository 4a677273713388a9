"""What only the published pages need: the paper's numbers, ours beside them, and the builder."""

import stce  # noqa: F401  first: it settles the last digits of matrix products
