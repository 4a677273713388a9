"""What concepts and supervoxels do to a logit, found out by experiment."""
