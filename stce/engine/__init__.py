"""How the same numbers come sooner, or land safely: the method reads without it."""
