"""Models of others that halle can use: what each serves, whether it is on this machine, and what it would need.

Nothing is downloaded, and nothing is loaded to look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from stages.codec.meta_encodec import HUB_NAME
from stages.metrics.opinion import UTMOS_FILE, UTMOS_REPOSITORY
from stages.speech.diarizer import RESEMBLYZER, missing_diarizer
from stages.speech.hub import local_folder, weights_of
from stages.speech.known_weights import KNOWN_WEIGHTS
from stages.speech.quality import DNSMOS, SQUIM, missing_dnsmos, missing_squim
from stages.speech.ssl import HUBERT_FILES
from stages.speech.vad import SILERO, missing_silero


@dataclass(frozen=True)
class NeededModel:
    """`missing` says what has to be installed or fetched, '' when nothing has. Sizes are those of downloads."""

    name: str
    serves: str
    size: str
    licence: str
    missing: Callable[[], str]


def _missing_on_hub(name: str, files: str = "", package: str = "transformers", extra: str = "hf") -> str:
    """Say what is missing of a model in the hub's cache and of the package that runs it."""
    wants = [] if find_spec(package) else [f"pip install 'halle[{extra}]'"]
    folder = local_folder(name)
    if folder is None or not (weights_of(folder) or list(folder.glob("model.bin"))):
        wants.append(f"hf download {name} {files}".rstrip())
    return "; ".join(wants)


def _missing_file(repository: str, file: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    return "" if isinstance(try_to_load_from_cache(repository, file), str) else f"hf download {repository} {file}"


def _missing_pocketsphinx() -> str:
    return "" if find_spec("pocketsphinx") else "pip install pocketsphinx"


def _on_hub(name: str, serves: str, files: str = "", **how: str) -> NeededModel:
    weights = KNOWN_WEIGHTS[name]
    return NeededModel(name, serves, weights.size, weights.licence, partial(_missing_on_hub, name, files, **how))


NEEDED_MODELS = (
    NeededModel("pocketsphinx", "hears, everywhere by default", "in its package", "BSD", _missing_pocketsphinx),
    NeededModel(SILERO, "curate: where there is speech", "in its package", "MIT", missing_silero),
    NeededModel(RESEMBLYZER, "curate: who speaks; eval: SIM", "in its package", "Apache-2.0",
                partial(missing_diarizer, RESEMBLYZER)),
    NeededModel(SQUIM, "curate: --quality-gate, the paper's", "28 MB", "CC BY 4.0", missing_squim),
    NeededModel(DNSMOS, "curate: --quality-gate; eval: DNSMOS", "in its package", "MIT", missing_dnsmos),
    _on_hub("Systran/faster-distil-whisper-large-v3", "curate: --transcriber faster-whisper:distil-large-v3",
            package="faster_whisper", extra="faster-whisper"),
    _on_hub("openai/whisper-large-v3", "eval: --transcriber, and curate's"),
    _on_hub("microsoft/wavlm-base-plus-sv", "eval: SIM"),
    NeededModel(UTMOS_REPOSITORY, "eval: UTMOS", "see its page", "see its page",
                partial(_missing_file, UTMOS_REPOSITORY, UTMOS_FILE)),
    _on_hub("facebook/hubert-base-ls960", "train-codec: --arch speechtokenizer", HUBERT_FILES),
    NeededModel(HUB_NAME, "mreq: --teacher", KNOWN_WEIGHTS[HUB_NAME].size, KNOWN_WEIGHTS[HUB_NAME].licence,
                partial(_missing_file, HUB_NAME, "model.safetensors")),
)
