"""Everything that stages leave on disk for each other."""
