"""What curation leaves in its output folder, and what it says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stages.artifacts import storage
from stages.artifacts.manifest import AUDIO_ROOT_FILE, INDEX_FILE, write_manifest
from stages.artifacts.run_dir import Output
from stages.config.stage_configs import CurateConfig
from stages.curation.readers import Corpus
from stages.errors import BadInputsError

JOURNAL, REJECTED, STATISTICS, WORK = "journal.jsonl", "rejected.jsonl", "statistics.json", "work"
REPORT = "report.html"  # made of the others, and anew whenever they are told of


def refuse_too_many_bad(reasons: list[str], total: int, config: CurateConfig) -> None:
    """Stop if too many of `total` recordings are bad audio, for these reasons."""
    if len(reasons) > config.bad_allowed(total):
        raise BadInputsError(
            f"expected at most `{config.max_bad}` of {total} recordings to be bad, got {len(reasons)}: "
            f"{tell_reasons(reasons)}",
            f"see {_rejected_file(config)}; mend or remove them, or allow more: --max-bad {len(reasons)} "
            "(what was checked is kept)",
        )


def refuse_nothing(kept: int, reasons: list[str], total: int, config: CurateConfig) -> None:
    """Stop if nothing is left of `total` recordings, for these reasons."""
    if not kept:
        raise BadInputsError(f"none of {total} recordings was accepted: {tell_reasons(reasons)}",
                             f"see {_rejected_file(config)}")


def tell_reasons(reasons: Iterable[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common())


def _rejected_file(config: CurateConfig) -> str:
    return (Path(config.out) / REJECTED).as_posix()


def write_result(output: Output, corpus: Corpus, config: CurateConfig, rows: list[dict], statistics: dict) -> None:
    """Write the manifest last of all, then the checksums that make the folder complete."""
    out = output.path
    write_audio_root(out, corpus, config)
    storage.write_json(out / STATISTICS, {
        "format_version": storage.FORMAT_VERSION, "layout": corpus.layout, "unlisted": corpus.unlisted,
        **statistics,
    })
    write_manifest(out, rows)
    output.finish(exclude=(JOURNAL, WORK, INDEX_FILE, REPORT))
    (out / JOURNAL).unlink(missing_ok=True)


def write_audio_root(out: Path, corpus: Corpus, config: CurateConfig) -> None:
    """Tell readers of the manifest where its audio lies, when that is not the output folder."""
    header = out / AUDIO_ROOT_FILE
    if config.clips == "reference" and corpus.root is not None:
        root = corpus.root.resolve().as_posix()
        storage.write_json(header, {"format_version": storage.FORMAT_VERSION, "audio_root": root})
    else:
        header.unlink(missing_ok=True)
