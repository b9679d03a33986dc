"""Speech datasets of the Hugging Face kind: by name, saved to disk, or a folder of parquet files.

The `datasets` library's own audio decoding needs torchcodec; here it only hands over the bytes of each file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import UNKNOWN_SPEAKER, Recording
from stages.errors import MissingModelError, UsageError
from stages.text.tables import SPEAKER_FIELDS, TEXT_FIELDS, Problems, Row, json_ready, take_text

_ANSWER_SECONDS = 8.0


def read_dataset(config: CurateConfig) -> list[Recording]:
    """List the recordings of every split of a dataset; `MissingModelError` when a name cannot be fetched."""
    source = Path(config.source)
    loaded = _load_folder(source) if source.is_dir() else _load_by_name(config)
    problems = Problems()
    recordings, seen = [], set()
    for split, dataset in loaded.items():
        for recording in _read_split(split, dataset, len(loaded) > 1, config, problems):
            if recording.id in seen:
                problems.add(f"split `{split}`", f"id `{recording.id}` was seen before")
            seen.add(recording.id)
            recordings.append(recording)
    problems.raise_any(f"mend these rows of the dataset `{config.source}`")
    return recordings


def _load_folder(folder: Path) -> dict[str, Any]:
    import datasets

    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = datasets.load_from_disk(str(folder))
    else:
        files = sorted(folder.rglob("*.parquet"))
        if not files:
            raise UsageError(f"expected a dataset saved to disk or parquet files in `{folder}`")
        loaded = {}
        for split in dict.fromkeys(_split_of(file) for file in files):
            chosen = [file.as_posix() for file in files if _split_of(file) == split]
            try:
                loaded[split] = datasets.Dataset.from_parquet(chosen)
            except Exception as error:  # of pyarrow, or of datasets, which has no kind of its own for it
                raise UsageError(f"the parquet files of `{split}` in `{folder}` cannot be read: "
                                 f"{' '.join(str(error).split())[:200]}",
                                 "a clone without its large files holds pointers to them: git lfs pull") from error
    return dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}


def _split_of(file: Path) -> str:
    """Parquet files are named `train-00000-of-00004.parquet`, or lie in a folder named after the split."""
    for name in (file.name, file.parent.name):
        for split in ("train", "validation", "valid", "dev", "test"):
            if name.startswith(split):
                return split
    return "train"


def _load_by_name(config: CurateConfig) -> dict[str, Any]:
    name = config.source
    hint = (
        f"on a machine with network: hf download --repo-type dataset {name} --local-dir FOLDER; "
        "then give halle curate the FOLDER"
    )
    import datasets
    import huggingface_hub

    try:
        if os.environ.get("HF_HUB_OFFLINE", "0") in ("0", ""):
            # Asked first, once: `load_dataset` tries for half a minute to reach a network that is not there.
            huggingface_hub.HfApi().dataset_info(name, timeout=_ANSWER_SECONDS)
        loaded = datasets.load_dataset(name, config.dataset_config)
    except Exception as error:  # the libraries raise a dozen kinds, and none of them is a fault of ours
        reason = " ".join(str(error).split())[:200]
        raise MissingModelError(f"could not fetch the dataset `{name}` (nor is it a path): {reason}", hint) from error
    return dict(loaded)


def _read_split(
    split: str, dataset: Any, many_splits: bool, config: CurateConfig, problems: Problems
) -> list[Recording]:
    column = _audio_column(dataset, config.source)
    rows = dataset.remove_columns([column])
    audio = _raw_audio(dataset, column)
    recordings = []
    for index, fields in enumerate(rows):
        row = Row(f"{split} row {index}", fields)
        used = {*TEXT_FIELDS, *SPEAKER_FIELDS, "id", "split", "duration", "start", "sample_rate"}
        name = take_text(row, ("id",), problems) or f"{split}-{index:06d}"
        recordings.append(
            Recording(
                id=name,
                audio=None,
                source=f"{split}/{name}",
                text=take_text(row, TEXT_FIELDS, problems),
                speaker=take_text(row, SPEAKER_FIELDS, problems) or UNKNOWN_SPEAKER,
                # A dataset of one split says nothing about which side a recording belongs to.
                split=take_text(row, ("split",), problems) or (split if many_splits else None),
                extra={key: json_ready(value) for key, value in fields.items() if key not in used},
                payload=_payload(audio, column, index),
            )
        )
    return recordings


def _audio_column(dataset: Any, source: str) -> str:
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Audio):
            return name
    for name in ("audio", "speech", "wav"):
        if name in dataset.features:
            return name
    columns = ", ".join(f"`{name}`" for name in dataset.features)
    raise UsageError(f"expected an audio column in the dataset `{source}`, got {columns}")


def _raw_audio(dataset: Any, column: str) -> Any:
    import datasets

    audio = dataset.select_columns([column])
    if isinstance(audio.features[column], datasets.Audio):
        audio = audio.cast_column(column, datasets.Audio(decode=False))
    return audio


def _payload(audio: Any, column: str, index: int) -> Callable[[], bytes]:
    def load() -> bytes:
        value = audio[index][column]
        if isinstance(value, dict) and value.get("bytes") is not None:
            return value["bytes"]
        path = value["path"] if isinstance(value, dict) else value
        return Path(path).read_bytes()

    return load
