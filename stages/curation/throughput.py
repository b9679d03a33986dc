"""How fast the steps are, in hours of audio an hour, and how long a corpus would take."""

from __future__ import annotations

from stages.config.stage_configs import CurateConfig
from stages.curation.work import Head

PAPER_HOURS = 186_000.0  # section 6: podcasts that MinutesSpeech was made of
# Hours of audio an hour and process, where nothing has been measured yet: one core of a server (AMD EPYC), one voice in
# FLAC of 44.1 kHz; MP3 of two channels takes a third longer to decode. squim-pesq is for a graphics card.
_NOTHING_TO_DO = 20_000.0  # hours an hour
MEASURED = {
    "check": 840.0,
    "gate dnsmos": 510.0,
    "gate squim-pesq": 6.0,
    "fingerprint": 1080.0,
    "vad": 580.0,
    "diarize resemblyzer": 140.0,
    "transcribe pocketsphinx": 5.3,
    "cut": 2100.0,
    "write": 520.0,
}


def hours_per_hour(heads: list[Head]) -> float | None:
    """Return hours of audio that one process gets done an hour; None when nothing was measured.

    A process's first recording, for which it loads the model, only counts when there is no other. Whoever is as fast as
    nothing is had nothing to do: no gate, or speakers and words that lie in files beside the recordings.
    """
    measured = [head for head in heads if not head.first] or heads
    took, seconds = sum(head.took for head in measured), sum(head.seconds for head in measured)
    return seconds / took if took and seconds / took < _NOTHING_TO_DO else None


def speed_elsewhere(step: str, config: CurateConfig) -> float | None:
    """Return what was measured of a step with the chosen model, None when it was not."""
    models = {"gate": config.gate.estimator, "diarize": config.diarizer, "transcribe": config.transcriber}
    return MEASURED.get(" ".join([step, *([models[step]] if step in models else [])]))


def estimate(hours: float, done: dict[str, list[Head]], config: CurateConfig) -> dict:
    """Return, per step and for all, the hours that one process would take for what is left and for the paper's corpus.

    `done` maps steps, and `write` while there is no result, to what they found. Speeds are what this output's own
    results took, else what was measured elsewhere; a step of unknown speed has none. Nothing counts as dropped, so that
    it is rather too much.
    """
    told = []
    for name, heads in done.items():
        here = hours_per_hour(heads)
        speed = here or speed_elsewhere(name, config)
        left = max(0.0, hours - sum(head.seconds for head in heads) / 3600)
        told.append({"step": name, "hours_per_hour": speed and round(speed, 1),
                     "measured": "here" if here else "elsewhere" if speed else "never",
                     "hours_left": speed and round(left / speed, 2),
                     "hours_for_186000": speed and round(PAPER_HOURS / speed)})
    return {"steps": told,
            "process_hours_left": round(sum(step["hours_left"] or 0.0 for step in told), 2),
            "process_hours_for_186000": sum(step["hours_for_186000"] or 0 for step in told)}
