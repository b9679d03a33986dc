"""How two papers score: what `eval --protocol` fixes, so that figures may stand beside theirs.

A protocol fixes settings of an evaluation. What was given otherwise is refused, never changed silently; what a paper
does not say, or what is done in another way here, is told with the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.config.models import Settings

_MODELS = ("transcriber", "speaker_model")  # wherever they lie, their last name is what counts
_NORMALISER = "the paper does not name its text normaliser; whisper-normalizer is used"
# HALL-E, section 7.1: the longest recording of each of its test sets, and of ours that are made like them
_LONGEST = {"test-90s": 90.0, "test-180s": 180.0, "librispeech-clean": 35.0,
            "libri-long-90s": 90.0, "libri-long-180s": 180.0, "demo-90s": 90.0}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """What a paper fixes: for each field of the evaluation's settings the values allowed, the first by default.

    `metrics` are measured by default; further or fewer ones contradict nothing. `notes` tell where the paper is silent
    and where it is not followed.
    """

    paper: str
    fixed: Mapping[str, tuple[Any, ...]]
    metrics: tuple[str, ...]
    notes: tuple[str, ...]


PROTOCOLS: dict[str, Protocol] = {
    "halle": Protocol(
        paper="Nishimura et al., HALL-E, ICLR 2025, section 7.1",
        fixed={
            "setting": ("continuation",),
            "prompt_seconds": (3.0,),
            "recording_seconds": ((4.0, 180.0),),
            "transcriber": ("nvidia/stt_en_conformer_transducer_xlarge",),
            "speaker_model": ("wavlm_large_finetune.pth",),
            "language": ("en",),
        },
        metrics=("wer", "speaker_similarity", "duration_distance", "dnsmos", "utmos"),
        notes=(
            _NORMALISER,
            "WER and durations are those of prompt and continuation together, as in VALL-E; SIM hears the continuation "
            "only. Whether the paper cuts the prompt off is not said",
            "texts are limited to the rates that `halle curate` takes (section 6); the paper gives no figures",
        ),
    ),
    "valle": Protocol(
        paper="Wang et al., VALL-E, 2023 (arXiv 2301.02111), sections 5.1 and 5.2",
        fixed={
            "setting": ("cross-sentence", "continuation"),  # VALL-E and VALL-E-continual
            "prompt_seconds": (3.0,),
            "max_prompt_seconds": (4.0,),
            "recording_seconds": ((4.0, 10.0),),
            "transcriber": ("facebook/hubert-large-ls960-ft",),
            "speaker_model": ("wavlm_large_finetune.pth",),
            "language": ("en",),
            "seeds": (3,),  # "each experiment runs three times and the average score is reported"
        },
        metrics=("wer", "speaker_similarity"),
        notes=(
            _NORMALISER,
            "across sentences, prompts are whole utterances of 3 to 4 s; the paper cuts 3 s out of longer ones",
            "SIM compares with the prompt as it was recorded; the paper's prompt has passed through its codec",
        ),
    ),
}  # fmt: skip


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the protocol brings which the `given` ones name; {} if they name none that is known."""
    name = str(given.get("protocol"))
    if name not in PROTOCOLS:
        return {}
    allowed = _allowed(name, str(given.get("set", "")))
    return {field: values[0] for field, values in allowed.items()} | {"metrics": PROTOCOLS[name].metrics}


def contradictions(config: Settings) -> list[str]:
    """Return a sentence for every setting that is not what its protocol fixes."""
    name = getattr(config, "protocol", None)
    allowed = _allowed(name, config.set) if name else {}
    return [f"protocol `{name}` fixes `{field}`: expected {' or '.join(f'`{_told(value)}`' for value in values)}, "
            f"got `{_told(getattr(config, field))}`"
            for field, values in allowed.items()
            if not any(_same(field, getattr(config, field), value) for value in values)]


def same_recogniser(name: str, heard_by: str) -> bool:
    """Tell whether transcripts by the recogniser `heard_by` are what the protocol asks for."""
    return any(_same("transcriber", heard_by, value) for value in PROTOCOLS[name].fixed["transcriber"])


def told_with_scores(config: Settings) -> dict | None:
    """Return what scores.json says of the protocol; None without one."""
    if config.protocol is None:
        return None
    protocol = PROTOCOLS[config.protocol]
    fixed = {field: getattr(config, field) for field in protocol.fixed}
    return {"name": config.protocol, "paper": protocol.paper, "settings": fixed, "notes": list(protocol.notes)}


def _allowed(name: str, test_set: str) -> dict[str, tuple[Any, ...]]:
    fixed = dict(PROTOCOLS[name].fixed)
    longest = _LONGEST.get(PureWindowsPath(test_set).name)
    if name == "halle" and longest:
        fixed["recording_seconds"] = ((4.0, longest),)
    return fixed


def _same(field: str, got: Any, wanted: Any) -> bool:
    if field in _MODELS:
        return PureWindowsPath(got).name == PureWindowsPath(wanted).name  # which splits at both kinds of slashes
    return got == wanted


def _told(value: Any) -> str:
    return "-".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
