"""What deserves a look in a run: rules over its curves, its samples and the warnings in its log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts.run_dir import LOG
from stages.artifacts.samples import list_samples
from stages.reports.history import Series
from stages.reports.listening import silent_samples

CODEBOOK_MEASURES = ("usage", "perplexity", "revived")
FALLING = ("loss", "l1", "mel", "fld", "hsr")  # the others need not fall: adversary and codec push against each other
RISE = 1.1  # of the best so far
EXPLODED = 10.0  # times the median gradient norm
FLAT_PERPLEXITY = 2.0  # fewer codes in even use than a coin has sides
LOW_SHARE = 0.25  # of the perplexity of the stream's best codebook
OVERPOWERING = 5.0  # times the gradient of the waveform's losses
_LEAST_ROWS = 20  # fewer tell nothing of a trend
_LOG_WARNING = re.compile(r"(\S+ \S+) (?:WARNING|ERROR|CRITICAL) \S+: (.*)")


@dataclass(frozen=True)
class Codebook:
    """One codebook of a stream, and what is known of it: `usage` (share of its entries), `perplexity`, `revived`.

    In training each is of the steps just done, at a validation of a few held-out clips; `revived` counts all so far.
    """

    stream: str
    index: int
    training: dict[str, Series]
    held_out: dict[str, Series]

    def series(self, measure: str) -> Series | None:
        """Return a measure in training, which has seen far more audio, or else at validations."""
        return self.training.get(measure, self.held_out.get(measure))

    @property
    def perplexity(self) -> float:
        """The newest, NaN when it is not known."""
        found = self.series("perplexity")
        return found.last if found else float("nan")


def codebooks(history: dict[str, Series]) -> list[Codebook]:
    """Return every codebook that is measured, in the order of the codec's streams."""
    found: dict[tuple[str, str], Codebook] = {}
    for name, series in history.items():
        if match := re.fullmatch(rf"(validation\.)?({'|'.join(CODEBOOK_MEASURES)})\.(.+)\.(\d+)", name):
            held_out, measure, stream, index = match.groups()
            book = found.setdefault((stream, index), Codebook(stream, int(index), {}, {}))
            (book.held_out if held_out else book.training)[measure] = series
    return list(found.values())


def is_low(book: Codebook, books: Sequence[Codebook]) -> bool:
    """Tell whether a codebook hardly tells vectors apart, or far less so than the best of its stream."""
    best = max(other.perplexity for other in books if other.stream == book.stream)
    return book.perplexity < max(FLAT_PERPLEXITY, LOW_SHARE * best)


def warnings_of(run_dir: Path, history: dict[str, Series]) -> list[str]:
    """Return one sentence for each thing that deserves a look, the most important first."""
    return [*_not_finite(history), *_rising(history), *_exploding(history), *_overpowered(history),
            *_unused(codebooks(history)), *_unheard(run_dir, history), *_logged(run_dir)]


def _not_finite(history: dict[str, Series]) -> Iterable[str]:
    for name, series in history.items():
        bad = series.steps[~np.isfinite(series.values)]
        if len(bad):
            yield f"{name} was not finite in {len(bad)} of {len(series.steps)} rows, the last at step {bad[-1]}"


def _rising(history: dict[str, Series]) -> Iterable[str]:
    for name in FALLING:
        series = history.get(name, _NOTHING).finite()
        if len(series.values) >= _LEAST_ROWS:
            means = np.array([part.mean() for part in np.array_split(series.values, 10)])
            if means[-1] > RISE * means.min() and means[-1] > means[-2]:
                yield f"{name} rises: {means[-1]:.3g} in the last tenth of the run, it was {means.min():.3g}"
        measured = history.get(f"validation.{name}", _NOTHING).finite()
        if len(measured.values) >= 3:
            best = int(measured.values.argmin())
            if measured.last > RISE * measured.values[best] and (np.diff(measured.values)[-2:] > 0).all():
                yield (f"validation {name} rises: {measured.last:.3g}, it was {measured.values[best]:.3g} "
                       f"at step {measured.steps[best]}")


def _exploding(history: dict[str, Series]) -> Iterable[str]:
    for name, series in history.items():
        known = series.finite()
        if not name.startswith("gradient_norm.") or len(known.values) < _LEAST_ROWS:
            continue
        median, late = float(np.median(known.values)), len(known.values) // 4
        worst = len(known.values) - late + int(known.values[-late:].argmax())
        if known.values[worst] > EXPLODED * median > 0:
            yield (f"the gradient norm of {name.partition('.')[2]} reached {known.values[worst]:.3g} "
                   f"at step {known.steps[worst]}, its median is {median:.3g}")


def _overpowered(history: dict[str, Series]) -> Iterable[str]:
    """Where latents are larger than those a weight was set for, a distillation loss is the only one that counts."""
    waveform = history.get("gradient_at_h.nac", _NOTHING).finite()
    for name in ("fld", "hsr"):
        latent = history.get(f"gradient_at_h.{name}", _NOTHING).finite()
        if len(waveform.values) and len(latent.values):
            ratio = float(np.median(latent.values[-_LEAST_ROWS:]) / np.median(waveform.values[-_LEAST_ROWS:]))
            if ratio > OVERPOWERING:
                yield (f"{name} pulls {ratio:.0f} times as hard at the latents as the losses of the waveform do: "
                       f"lower losses.{name}")


def _unused(books: Sequence[Codebook]) -> Iterable[str]:
    for stream in dict.fromkeys(book.stream for book in books):
        low = [f"{book.index} (perplexity {book.perplexity:.3g})" for book in books
               if book.stream == stream and is_low(book, books)]
        if low:
            yield f"codebooks of {stream} in little use: {', '.join(low)}"


def _unheard(run_dir: Path, history: dict[str, Series]) -> Iterable[str]:
    for sample in silent_samples(run_dir):
        yield f"nothing is heard in {sample}"
    if any(book.held_out for book in codebooks(history)) and not list_samples(run_dir):
        yield "there is no audio to hear: validations of this codec left none in samples"


def _logged(run_dir: Path, most: int = 8) -> Iterable[str]:
    """Yield the newest warnings of the log; those that differ in numbers only are told once, with their count."""
    path = run_dir / LOG
    if not path.is_file():
        return
    found: dict[str, tuple[int, str, str]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _LOG_WARNING.fullmatch(line):
            kind = re.sub(r"\d+", "0", match[2])
            count = found.pop(kind, (0, "", ""))[0] + 1
            found[kind] = (count, match[1].partition(",")[0], match[2])
    for count, when, message in list(found.values())[: -most - 1 : -1]:
        yield f"{message} ({when}{f', {count} times so far' if count > 1 else ''})"


_NOTHING = Series(np.array([]), np.array([]))
