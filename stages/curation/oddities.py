"""What is odd about recordings that are kept all the same: it is counted in the statistics, and said once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from stages.audio.base import AudioInfo

log = logging.getLogger("halle.curate")

WARNINGS = {
    "LOW_BIT_DEPTH": "8 bits a sample or a telephone's encoding: they hiss",
    "OPPOSITE_CHANNELS": "their channels are opposite, so that little is left of their mean",
    "UNSIZED": "their headers do not say how long they are, so all that is there was read",
}
_FEW_BITS = ("PCM_U8", "PCM_S8", "ULAW", "ALAW")
_CANCELLED = 0.05  # of the channels' mean power: less is left of a voice whose channels are opposite
_NO_SIZE = 0xFFFFFF00  # from here on, and 0, a RIFF header's size was never filled in


def oddities(path: Path, info: AudioInfo, mean_power: float, channel_power: float) -> list[str]:
    """Name what is odd about a sound recording.

    `mean_power` is that of the mean of its channels, `channel_power` the mean of the channels' own.
    """
    holds = {"LOW_BIT_DEPTH": info.subtype in _FEW_BITS,
             "OPPOSITE_CHANNELS": mean_power < _CANCELLED * channel_power,
             "UNSIZED": _is_unsized(path)}
    return [name for name in WARNINGS if holds[name]]


def _is_unsized(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(8)
    return head[:4] == b"RIFF" and not 0 < int.from_bytes(head[4:], "little") < _NO_SIZE


def describe_oddities(found: Iterable[tuple[int, Iterable[str]]]) -> dict:
    """Return what statistics tell of (sample rate, warnings) of sound recordings: how many there are of each."""
    found = list(found)
    rates, warnings = Counter(rate for rate, _ in found), Counter(name for _, names in found for name in names)
    return {"sample_rates": {str(rate): rates[rate] for rate in sorted(rates)},
            "warnings": {name: warnings[name] for name in sorted(warnings)}}


def tell_oddities(statistics: Mapping, sample_rate: int, resampled: bool) -> None:
    """Log, once a run, which recordings are brought to `sample_rate` and what is odd about others."""
    others = {rate: count for rate, count in statistics["sample_rates"].items() if int(rate) != sample_rate}
    if others and resampled:
        log.info("resampled to %d Hz: %s", sample_rate,
                 ", ".join(f"{count} recordings of {rate} Hz" for rate, count in others.items()))
    for name, count in statistics["warnings"].items():
        log.warning("%s: %d recordings; %s", name, count, WARNINGS[name])
