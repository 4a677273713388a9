"""The networks of the paper (4.1), block by block."""
