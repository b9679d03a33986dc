"""Size and licence of weights that are not in packages, for everyone who has to say how to fetch them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """How much is downloaded, and under which licence, by the page of the weights."""

    size: str
    licence: str


KNOWN_WEIGHTS = {
    "openai/whisper-large-v3": Weights("3.1 GB", "Apache-2.0"),
    "Systran/faster-distil-whisper-large-v3": Weights("1.5 GB", "MIT"),
    "microsoft/wavlm-base-plus-sv": Weights("405 MB", "see its model card"),
    "facebook/hubert-base-ls960": Weights("378 MB", "Apache-2.0"),
    "facebook/hubert-large-ls960-ft": Weights("1.3 GB", "Apache-2.0"),
    "facebook/encodec_24khz": Weights("93 MB", "see its model card"),
}


def fetch(name: str, files: str = "") -> str:
    """Return the command that brings weights of the Hugging Face Hub here, with their size and licence if known."""
    command = f"hf download {name} {files}".rstrip()
    known = KNOWN_WEIGHTS.get(name)
    return command if known is None else f"{command} ({known.size}, licence: {known.licence})"
