"""From written text to token ids."""
