"""The charts of a run's page: every series of metrics.jsonl has its place in one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stages.reports.curves import COLOURS, Curve, chart, ramp
from stages.reports.health import CODEBOOK_MEASURES, Codebook
from stages.reports.history import Series, total

LEARNING_RATE, SECONDS, TOKENS = "learning_rate", "seconds_per_step", "tokens"
VALIDATION = "validation."
_BLUE, _ORANGE = COLOURS[:2]


def losses(history: dict[str, Series]) -> list[str]:
    """Draw what training logs of the whole model, beside the validation's measure of the same name."""
    drawn = []
    for name in (name for name in history if "." not in name and name not in (LEARNING_RATE, SECONDS, TOKENS)):
        curves = [Curve("training", history[name], _BLUE)]
        if validation := history.get(VALIDATION + name):
            curves.append(Curve("validation", validation, _ORANGE, dots=True))
        drawn.append(chart(name, curves))
    return drawn


def measures(history: dict[str, Series]) -> list[str]:
    """Draw what only validations tell of the whole model."""
    return [chart(name.removeprefix(VALIDATION), [Curve("", series, _ORANGE, dots=True)])
            for name, series in history.items()
            if name.startswith(VALIDATION) and name.count(".") == 1 and name.partition(".")[2] not in history]


def parts(history: dict[str, Series]) -> list[str]:
    """Draw what is told of parts; names that differ in a number alone, as `loss.codebook1` and 2, share a chart."""
    groups: dict[str, list[tuple[str, Series]]] = {}
    for name, series in history.items():
        base, _, part = name.removeprefix(VALIDATION).partition(".")
        if part and base not in CODEBOOK_MEASURES and not base.startswith("gradient"):
            groups.setdefault(re.sub(r"\d+", "N", name), []).append((", ".join(re.findall(r"\d+", part)), series))
    return [_parts_chart(kind, members) for kind, members in groups.items()]


def _parts_chart(kind: str, members: Sequence[tuple[str, Series]]) -> str:
    validation = kind.startswith(VALIDATION)
    base, _, part = kind.removeprefix(VALIDATION).partition(".")
    title = f"{base} of each {part[:-1]}" if re.fullmatch("[a-z]+N", part) else f"{base}: {part.replace('.', ', ')}"
    curves = [Curve(label, series, colour, dots=validation)
              for (label, series), colour in zip(members, ramp(len(members)), strict=True)]
    return chart(title.replace("_", " ") + (", validation" if validation else ", training"), curves)


def codebook_charts(books: Sequence[Codebook]) -> list[str]:
    """Draw usage, then perplexity, a chart a stream, and how many entries were revived, a line a stream."""
    streams = {book.stream: [other for other in books if other.stream == book.stream] for book in books}
    drawn = []
    for measure in ("usage", "perplexity"):
        for stream, members in streams.items():
            own = [book for book in members if book.series(measure)]
            curves = [Curve(str(book.index), book.series(measure), colour, dots=measure not in book.training)
                      for book, colour in zip(own, ramp(len(own)), strict=True)]
            drawn.append(chart(f"{stream}: {measure} of each codebook", curves, "zero") if curves else "")
    revived = {stream: [book.series("revived") for book in members if book.series("revived")]
               for stream, members in streams.items()}
    totals = [(stream, total(found)) for stream, found in revived.items() if found]
    curves = [Curve(stream, series, colour) for (stream, series), colour in zip(totals, ramp(len(totals)), strict=True)]
    return [*drawn, chart("entries revived so far", curves, "zero") if curves else ""]


def optimisation(history: dict[str, Series]) -> list[str]:
    """Draw gradient norms, the learning rate and what a step takes."""
    groups: dict[str, list[tuple[str, Series]]] = {}
    for name, series in history.items():
        base, _, part = name.partition(".")
        if part and base.startswith("gradient"):
            groups.setdefault(base, []).append((part, series))
    drawn = [chart(base.replace("_", " "), [Curve(part, series, COLOURS[index % len(COLOURS)])
                                            for index, (part, series) in enumerate(members)], "log")
             for base, members in groups.items()]
    drawn += [chart(name.replace("_", " "), [Curve("", history[name], _BLUE)], "zero")
              for name in (LEARNING_RATE, SECONDS, TOKENS) if name in history]
    return drawn
