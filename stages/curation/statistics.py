"""What a curated corpus holds, in the numbers of the paper's Table 2."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from stages.curation.screening import Rejection
from stages.errors import UsageError
from stages.text.normalizer import normalize
from stages.text.tokenizer import TextTokenizer

LOW_RATE, HIGH_RATE = 8, 48  # frames a second that the AR reads (Table 1), and of the codec
_MOST_AT_HIGH_RATE = 60.0  # seconds; the sets of longer utterances are made for 8 Hz, marked so in Table 2
_LEARNED_TEXTS = 20_000  # that the text tokenizer is learned from
_LONGEST_TEXTS = 1000  # among which that of most tokens is looked for


def describe(rows: list[dict], rejections: list[Rejection], inputs: int, accepted: int) -> dict:
    """Summarise manifest rows and rejections; `accepted` counts inputs, of which a joined clip takes several.

    Every input is accepted or rejected: anything else is our bug, and raised.

    Durations are seconds (mean and population standard deviation, as Table 2 of the paper gives them).
    """
    if accepted + len(rejections) != inputs:
        raise AssertionError(f"{inputs} inputs, but {accepted} accepted and {len(rejections)} rejected")
    durations = [row["duration"] for row in rows]
    longest = max(rows, key=lambda row: row["duration"], default=None)
    return {
        "inputs": inputs,
        "accepted": accepted,
        "rejected": len(rejections),
        "reasons": dict(sorted(Counter(rejection.reason for rejection in rejections).items())),
        "bad_audio": sum(rejection.is_bad_audio for rejection in rejections),
        **_totals(rows),
        "mean_seconds": round(sum(durations) / len(durations), 3) if durations else 0.0,
        "sd_seconds": round(_deviation(durations), 3),
        "longest": {"id": longest["id"], "seconds": longest["duration"]} if longest else None,
        "splits": _by(rows, "split"),
        "speakers": _by(rows, "speaker"),
    }


def _totals(rows: list[dict]) -> dict:
    return {
        "clips": len(rows),
        "hours": round(sum(row["duration"] for row in rows) / 3600, 4),
        "words": sum(len(row["text"].split()) for row in rows),
    }


def _by(rows: list[dict], column: str) -> dict[str, dict]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return {name: _totals(groups[name]) for name in sorted(groups)}


def _deviation(values: list[float]) -> float:
    if not values:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


# ---- Table 2


def table(sets: dict[str, list[dict]]) -> list[dict]:
    """Return Table 2's rows: set name (such as `28s`) -> manifest rows; each of its splits makes a row, `train-28s`.

    Words are those of the texts, text tokens what a tokenizer learned from the first set's training texts makes of
    them, and the largest sum is, as in the paper, that of the two maxima.
    """
    tokenizer = _learn_tokenizer(next(iter(sets.values()), []))
    return [_table_row(f"{split}-{name}", [row for row in rows if row["split"] == split], tokenizer)
            for name, rows in sets.items() for split in sorted({row["split"] for row in rows}, key=_split_order)]


def table_line(row: dict) -> str:
    """Return a row of the table as one line of text; a dagger marks audio tokens at 8 Hz."""
    dagger = "†" if row["audio_rate"] == LOW_RATE else ""
    return (f"{row['name']}  {row['clips']} clips  {row['mean_seconds']:.2f} ± {row['sd_seconds']:.2f} s  "
            f"{row['hours']:.2f} h  {row['words']} words  longest: {row['max_audio_tokens']}{dagger} audio + "
            f"{row['max_text_tokens']} text = {row['max_tokens']} tokens")


def _table_row(name: str, rows: list[dict], tokenizer: TextTokenizer | None) -> dict:
    durations = [row["duration"] for row in rows]
    longest = max(durations)
    rate = HIGH_RATE if longest <= _MOST_AT_HIGH_RATE else LOW_RATE
    audio, text = math.ceil(round(longest * rate, 6)), _most_tokens([row["text"] for row in rows], tokenizer)
    totals = _totals(rows)
    return {"name": name, "clips": totals["clips"], "mean_seconds": round(sum(durations) / len(durations), 2),
            "sd_seconds": round(_deviation(durations), 2), "hours": totals["hours"], "words": totals["words"],
            "longest_seconds": longest, "audio_rate": rate, "max_audio_tokens": audio, "max_text_tokens": text,
            "max_tokens": audio + text}


def _learn_tokenizer(rows: list[dict]) -> TextTokenizer | None:
    texts = [row["text"] for row in rows if row["split"] == "train"] or [row["text"] for row in rows]
    sound = [text for text in map(_normalised, texts[:: max(1, len(texts) // _LEARNED_TEXTS)]) if text]
    return TextTokenizer.train(sound) if sound else None


def _most_tokens(texts: list[str], tokenizer: TextTokenizer | None) -> int:
    longest = map(_normalised, sorted(texts, key=len)[-_LONGEST_TEXTS:])
    return max(len(tokenizer.encode(text)) for text in longest) if tokenizer else 0


def _normalised(text: str) -> str:
    try:
        return normalize(text)
    except UsageError:  # `tokenize` leaves it out, and says so
        return ""


def _split_order(split: str) -> tuple[bool, str]:
    return split != "train", split
