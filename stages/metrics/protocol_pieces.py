"""What a protocol needs of this machine: models of its metrics, and its recogniser or what that one heard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PureWindowsPath

from stages.config.protocols import PROTOCOLS, same_recogniser
from stages.config.stage_configs import EvalConfig
from stages.errors import MissingModelError, UsageError
from stages.metrics.base import Metric, Need
from stages.metrics.registry import why_not
from stages.metrics.sounds import Sound
from stages.speech.transcriber import Transcript

# Recognisers that cannot live in one environment with halle, and what runs them where they can
_ELSEWHERE = {"stt_en_conformer_transducer_xlarge": "examples/nemo/transcribe.py"}


class AwaitedTranscripts:
    """A recogniser that runs outside of halle and has not been asked yet: audio can be made, but not scored."""

    version = "not heard yet"

    def __init__(self, recogniser: str, out: Path):
        self.name = PureWindowsPath(recogniser).name
        self._out = out

    def require(self, sounds: Collection[str]) -> None:
        """Raise `MissingModelError`: now that the sounds are there, they can be heard elsewhere."""
        raise MissingModelError(
            f"the recogniser `{self.name}` runs outside of halle, and there are no transcripts of {len(set(sounds))} "
            f"sounds in `{self._out}`",
            hint=f"python {_ELSEWHERE[self.name]} {self._out}, in an environment of its own (README beside it), "
                 f"then this command again with --transcripts {self._out / self.name}.jsonl: what was spoken is kept")

    def of(self, audio_sha256: str, read: Callable[[], Sound]) -> Transcript:
        """Never reached: `require` comes first."""
        raise MissingModelError(f"there is no transcript of `{audio_sha256}`")


def runs_elsewhere(recogniser: str) -> bool:
    """Tell whether a recogniser's transcripts have to be made outside of halle."""
    return PureWindowsPath(recogniser).name in _ELSEWHERE


def check_recogniser(protocol: str | None, heard_by: str) -> None:
    """Refuse transcripts that are not of the recogniser that the protocol fixes."""
    if protocol and not same_recogniser(protocol, heard_by):
        expected = " or ".join(f"`{name}`" for name in PROTOCOLS[protocol].fixed["transcriber"])
        raise UsageError(f"protocol `{protocol}` fixes `transcriber`: expected transcripts of {expected}, "
                         f"got those of `{heard_by}`", hint="give others after --transcripts, or leave --protocol out")


def check_pieces(config: EvalConfig, metrics: Sequence[Metric], offered: Iterable[Need]) -> None:
    """Raise `MissingModelError` when a metric of the protocol cannot be measured here, before hours are spent.

    Without a protocol such a metric has no value and says why; a protocol is followed or it is not.
    """
    if config.protocol is None:
        return
    offered = tuple(offered)
    wanted = [metric for metric in metrics if metric.name in PROTOCOLS[config.protocol].metrics]
    lacking = {metric.name: reason for metric in wanted if (reason := why_not(metric, offered))}
    if lacking:
        told = "; ".join(f"`{name}`: {reason}" for name, reason in lacking.items())
        rest = " ".join(f"--metric {metric.name}" for metric in metrics if metric.name not in lacking)
        model = "; WavLM-TDNN may lie anywhere: -O speaker_model=FOLDER/wavlm_large_finetune.pth"
        raise MissingModelError(
            f"protocol `{config.protocol}` measures what cannot be measured here: {told}",
            hint=f"fetch it{model if 'speaker_similarity' in lacking else ''}"
                 + (f"; or measure the rest alone: {rest}" if rest else ""))
