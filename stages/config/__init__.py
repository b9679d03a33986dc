"""Settings: architectures, runs, presets and how they are merged. No numerical library here."""
