"""Somebody's audio, matched with a test set by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.errors import UsageError
from stages.metrics.cases import Case, file_stem
from stages.metrics.set_layouts import audio_files
from stages.text.tables import printable


@dataclass(frozen=True)
class Hypotheses:
    """Someone's audio matched with the test set by id. `unknown` are files that belong to no utterance."""

    matched: dict[str, Path]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def in_words(self) -> str:
        counts = f"{len(self.matched)} matched, {len(self.missing)} missing"
        return f"{counts}, {len(self.unknown)} of no utterance scored here"


def match_hypotheses(cases: Sequence[Case], folder: Path) -> Hypotheses:
    """Match audio files directly in `folder` with utterances whose id is the file's stem.

    Raises `UsageError` when none matches, or when two files claim the same utterance.
    """
    if not folder.is_dir():
        raise UsageError(f"expected a folder of audio files after --hypotheses, got `{folder}`",
                         hint="the files in it are named after the utterances: ID.wav")
    ids = {file_stem(case.id): case.id for case in cases} | {case.id: case.id for case in cases}
    matched: dict[str, Path] = {}
    unknown = []
    for file in audio_files(folder):
        if (stem := printable(file.stem)) not in ids:
            unknown.append(printable(file.name))
        elif (known := ids[stem]) in matched:
            raise UsageError(f"`{matched[known].name}` and `{file.name}` in `{folder}` are both for `{known}`",
                             hint="keep one of them")
        else:
            matched[known] = file
    missing = tuple(case.id for case in cases if case.id not in matched)
    if not matched:
        raise UsageError(f"no audio file in `{folder}` has an id of the test set as its name "
                         f"({len(unknown)} others, {len(missing)} utterances)",
                         hint=f"name the files like `{file_stem(missing[0])}.wav`, directly in this folder")
    return Hypotheses(matched, missing, tuple(unknown))
