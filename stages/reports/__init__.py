"""Pages and plots that people read."""
