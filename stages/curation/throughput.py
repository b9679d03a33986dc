"""How fast the steps are, in hours of audio an hour, and how long a corpus would take."""

from __future__ import annotations

from stages.curation.work import Head

PAPER_HOURS = 186_000.0  # section 6: podcasts that MinutesSpeech was made of
# Hours of audio an hour and process, where nothing has been measured yet: one core of a server, MP3 of 44.1 kHz stereo.
# The gate is that of dnsmos; squim-pesq reaches 6 there and is for a graphics card.
MEASURED: dict[str, float] = {"gate": 450.0, "vad": 500.0}


def hours_per_hour(heads: list[Head]) -> float | None:
    """Return hours of audio that one process gets done an hour; None when nothing was measured.

    A process's first recording, for which it loads the model, only counts when there is no other.
    """
    measured = [head for head in heads if not head.first] or heads
    took = sum(head.took for head in measured)
    return sum(head.seconds for head in measured) / took if took else None


def estimate(hours: float, steps: list[str], done: dict[str, list[Head]]) -> dict:
    """Return, per step and for all, the hours that one process would take for a corpus and for that of the paper.

    Speeds are what this output's own results took, else those in `MEASURED`; a step of unknown speed has none.
    """
    told, totals = {}, {"this_source": 0.0, "186000_hours": 0.0}
    for name in steps:
        here = hours_per_hour(done.get(name, []))
        speed = here or MEASURED.get(name)
        told[name] = {"hours_per_hour": speed and round(speed, 1), "measured": "here" if here else "elsewhere",
                      "this_source": speed and round(hours / speed, 2),
                      "186000_hours": speed and round(PAPER_HOURS / speed)}
        for key in totals:
            totals[key] += told[name][key] or 0.0
    unknown = [name for name in steps if told[name]["hours_per_hour"] is None]
    return {"steps": told, "process_hours": {key: round(value, 2) for key, value in totals.items()},
            "without": unknown}
