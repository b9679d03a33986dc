"""The paper's section 6: the limits of the training set's text lengths apply to each test set too.

The paper gives no figures. What it filtered is not said either, so there are two readings: the rates that `curate`
accepts, which are the limits of every training set made with halle, and the extremes that a training set has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stages.artifacts.manifest import read_manifest
from stages.config.stage_configs import CurateConfig, EvalConfig
from stages.metrics.cases import Case
from stages.text.tables import chars_per_second, text_key

MINUTES_SPEECH = ("test-90s", "test-180s")  # the sets that the paper filtered


@dataclass(frozen=True)
class TextLimits:
    """Fewest and most characters a second of recording, and characters, that a text may have; `whose` tells of whom."""

    whose: str
    rates: tuple[float, float]
    lengths: tuple[float, float] = (0, float("inf"))

    def applied(self, case: Case) -> Case:
        """Return the case, refused if its text lies outside. What has no recording is judged by its length alone."""
        problem = self._problem(case) if case.text and not case.refused else ""
        return replace(case, refused=f"{problem}, as in {self.whose}") if problem else case

    def _problem(self, case: Case) -> str:
        length = len(text_key(case.text))
        if not self.lengths[0] <= length <= self.lengths[1]:
            return f"expected a text of {self.lengths[0]:g} to {self.lengths[1]:g} characters, got {length}"
        seconds = case.recording.duration if case.recording else 0.0
        if seconds and not self.rates[0] <= (rate := chars_per_second(case.text, seconds)) <= self.rates[1]:
            return f"expected {self.rates[0]:.1f} to {self.rates[1]:.1f} characters a second, got {rate:.1f}"
        return ""


def limits_of(config: EvalConfig, set_name: str) -> TextLimits | None:
    """Return the limits that `text_limits` names: `none`, `curate`, or a training set's manifest; None for no limits.

    `auto` is `curate` for the test sets of MinutesSpeech and where the paper's protocol is asked for, else none.
    """
    setting = config.text_limits
    if setting == "auto":
        setting = "curate" if set_name in MINUTES_SPEECH or config.protocol == "halle" else "none"
    if setting == "none":
        return None
    if setting == "curate":
        usual = CurateConfig()
        return TextLimits("what `halle curate` takes", (usual.min_chars_per_second, usual.max_chars_per_second))
    return limits_of_training(setting)


def limits_of_training(path: str) -> TextLimits:
    """Return the extremes of a training set: of its rows marked `train`, or all when none is."""
    manifest = read_manifest(path)
    rows = manifest.split("train") or manifest.utterances
    rates = [chars_per_second(row.text, row.duration) for row in rows if row.duration > 0]
    lengths = [len(text_key(row.text)) for row in rows]
    return TextLimits(f"the training set `{path}`", (min(rates), max(rates)), (min(lengths), max(lengths)))
