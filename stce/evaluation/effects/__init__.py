"""What concepts and supervoxels do to the logits, found out by experiment."""
