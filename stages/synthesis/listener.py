"""The recogniser that hears what was spoken, for `synth --verify` and for captions."""

from __future__ import annotations

import logging

from stages.config.stage_configs import SynthConfig
from stages.errors import MissingModelError
from stages.speech.transcriber import NO_TRANSCRIBER, Transcriber, load_transcriber

log = logging.getLogger("halle.synth")


def find_listener(config: SynthConfig, otherwise: str) -> tuple[Transcriber | None, str]:
    """Return the recogniser of the settings, or None and why there is none.

    Raises `MissingModelError` for one that cannot be had, unless it is the one that nobody chose; then `otherwise`,
    what becomes of the speech without, is logged.
    """
    if config.transcriber == NO_TRANSCRIBER:
        return None, "not wanted"
    try:
        return load_transcriber(config.transcriber), ""
    except MissingModelError as error:
        if config.transcriber != SynthConfig().transcriber:
            raise
        log.warning("%s: %s", error.message, otherwise)
        return None, error.message
