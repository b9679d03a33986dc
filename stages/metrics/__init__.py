"""Scores of synthesised or reconstructed speech."""
