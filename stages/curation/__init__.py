"""From recordings to a manifest."""
