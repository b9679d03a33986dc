"""Audio files and spectral transforms."""
