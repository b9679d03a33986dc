"""From text and a voice prompt to speech."""
