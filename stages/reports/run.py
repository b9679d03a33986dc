"""The page of a training run, made of the files in its folder alone, so that it can be made again at any time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from stages.artifacts.run_dir import CONFIG, PROVENANCE
from stages.artifacts.samples import Sample
from stages.artifacts.storage import read_json, write_text
from stages.reports import run_charts
from stages.reports.health import Codebook, codebooks, is_low, warnings_of
from stages.reports.history import Series, read_history
from stages.reports.listening import keep_samples, listening_parts
from stages.reports.page import charts, details, facts, heading, notices, page, paragraph, table
from stages.reports.run_charts import SECONDS, TOKENS, VALIDATION

REPORT = "report.html"
_NEWEST = 30  # rows that the speed is taken from


def update_report(run_dir: Path, step: int, samples: Sequence[Sample] = ()) -> None:
    """Keep the samples of a step and write the run's page: what `train_once` takes as `report`."""
    keep_samples(run_dir, step, samples)
    write_text(run_dir / REPORT, run_page(run_dir))


def run_page(run_dir: Path) -> str:
    """Return report.html out of what the run folder holds."""
    recorded = read_json(run_dir / CONFIG)
    config, history = recorded["config"], read_history(run_dir)
    warnings = warnings_of(run_dir, history)
    about = {**_standing(config, history), **_measures(history), **_origin(run_dir, recorded)}
    parts = [facts(about)]
    if warnings:
        parts += [heading("Worth a look"), notices(warnings)]
    parts += _section("Training and validation", run_charts.losses(history))
    parts += _section("Validation only", run_charts.measures(history))
    parts += _section("By part", run_charts.parts(history))
    parts += _codebooks(run_dir, config, history)
    parts += _listening(run_dir)
    parts += _section("Optimisation", run_charts.optimisation(history))
    parts.append(details("Settings", [facts({key: _as_text(value) for key, value in config.items()})]))
    return page(f"halle {recorded['stage']}: {run_dir.resolve().name}", parts)


def _standing(config: dict, history: dict[str, Series]) -> dict[str, str]:
    planned = config["training.steps"]
    step = max((int(series.steps[-1]) for series in history.values()), default=0)
    told = {"step": f"{step:,} of {planned:,} ({100 * step / planned:.0f} %)"}
    if SECONDS not in history:
        return told
    pace = history[SECONDS].finite()
    newest = pace.values[-_NEWEST:]
    told["time"] = f"{_duration(float((np.diff(pace.steps, prepend=0) * pace.values).sum()))} of training"
    told["time"] += f", about {_duration((planned - step) * newest.mean())} to go" if step < planned else ", done"
    usual = float(np.median(newest))
    told["speed"] = f"{1 / usual:.3g} steps a second ({usual:.3g} s a step){_work(config, history, usual)}"
    return told


def _work(config: dict, history: dict[str, Series], seconds: float) -> str:
    """Say how much audio or how many codes one second of training takes in, where that is known."""
    if "crop_seconds" in config and "training.batch_size" in config:
        return f", {config['crop_seconds'] * config['training.batch_size'] / seconds:.3g} s of audio a second"
    if TOKENS in history and len(codes := history[TOKENS].finite().values):
        return f", {codes[-_NEWEST:].mean() / seconds:,.0f} codes a second"
    return ""


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def _measures(history: dict[str, Series]) -> dict[str, str]:
    last = {name.removeprefix(VALIDATION): series for name, series in history.items()
            if name.startswith(VALIDATION) and name.count(".") == 1}
    if not last:
        return {}
    step = max(int(series.steps[-1]) for series in last.values())
    told = ", ".join(f"{name} {series.last:.4g}" for name, series in last.items() if series.steps[-1] == step)
    return {f"validation at {step:,}": told}


def _origin(run_dir: Path, recorded: dict) -> dict[str, str]:
    told = {"made from": ", ".join(f"{name} {digest[:12]}" for name, digest in recorded["parents"].items()) or "-"}
    if (run_dir / PROVENANCE).is_file():
        provenance = read_json(run_dir / PROVENANCE)
        packages = provenance.get("packages", {})
        told["with"] = ", ".join(f"{name} {packages[name]}" for name in ("halle", "torch") if name in packages)
        told["last started"] = provenance["started"]
    told["page written"] = datetime.now(UTC).isoformat(timespec="seconds")
    return told


def _as_text(value: object) -> str:
    return "-" if value in (None, "", [], {}) else str(value)


def _section(title: str, drawn: Sequence[str]) -> list[str]:
    drawn = [svg for svg in drawn if svg]
    return [heading(title), charts(drawn)] if drawn else []


def _codebooks(run_dir: Path, config: dict, history: dict[str, Series]) -> list[str]:
    books = codebooks(history)
    if not books:
        return []
    size = _codebook_size(run_dir, config)
    header = ("stream", "codebook", "in use, %", "perplexity", "of size, %", "held out: in use, %", "perplexity",
              "revived so far", "")
    entries = f"{size} entries each. " if size else ""
    caption = f"{entries}In the steps just done, and on the held-out clips of the last validation."
    rows = [_codebook_row(book, books, size) for book in books]
    return [*_section("Codebooks", run_charts.codebook_charts(books)),
            table(caption, header, rows, numbers=range(1, 8))]


def _codebook_row(book: Codebook, books: Sequence[Codebook], size: int | None) -> tuple[str, ...]:
    def last(found: Series | None, form: str, unit: float = 1.0) -> str:
        return format(found.last * unit, form) if found else "–"

    share = f"{100 * book.perplexity / size:.1f}" if size else "–"
    return (book.stream, str(book.index), last(book.training.get("usage"), ".1f", 100),
            last(book.training.get("perplexity"), ".1f"), share, last(book.held_out.get("usage"), ".1f", 100),
            last(book.held_out.get("perplexity"), ".1f"), last(book.series("revived"), ".0f"),
            "little used" if is_low(book, books) else "")


def _codebook_size(run_dir: Path, config: dict) -> int | None:
    """Return the entries of a codebook, from the settings or, where a teacher gave it, from a checkpoint."""
    if "codec.quantizer.codebook_size" in config:
        return config["codec.quantizer.codebook_size"]
    for file in sorted((run_dir / "checkpoints").glob("step-*/config.json"), reverse=True):
        return read_json(file)["architecture"].get("quantizer", {}).get("codebook_size")
    return None


def _listening(run_dir: Path) -> list[str]:
    shown = listening_parts(run_dir)
    if not shown:
        return []
    note = ("Audio of the validation; all but original recordings is synthetic. Frequency rises to half the sample "
            "rate, black is loud.")
    return [heading("Listen"), paragraph(note, "soft"), *shown]
