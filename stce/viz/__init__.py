"""Results to look at: arrays and tables in, figures, films and pages out."""
