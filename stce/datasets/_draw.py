"""Drawing by a seed, so that what is drawn does not depend on what else is there."""

import hashlib


def shuffled(names, seed):
    """Return names in an order that the seed decides; one more name moves none of the others.

    Parameters
    ----------
    names : iterable of str
        Whatever is drawn from.
    seed : int
        Another seed gives another order.

    Returns
    -------
    names : list of str

    Examples
    --------
    >>> shuffled("abcde", 0)
    ['c', 'b', 'e', 'd', 'a']
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
