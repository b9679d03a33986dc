"""What a user asks before anything is spoken: how the text will be read, and what to record as a prompt of one's own.

Neither needs a model.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from stages.artifacts.checkpoint import describe_checkpoint
from stages.artifacts.storage import write_text
from stages.audio.io import AUDIO_SUFFIXES
from stages.config.stage_configs import SynthConfig
from stages.errors import UsageError
from stages.synthesis.long_script import paragraphs_of, sentences_of
from stages.synthesis.model import find_parts, is_there_a_model
from stages.text.normalizer import NORMALIZER_VERSION, normalize, normalize_with_changes
from stages.text.tokenizer import TextTokenizer, listed

# All 39 phonemes of American English in 33 words, some 12 s of calm reading; a test counts them.
READING_PASSAGE = ("Early on Thursday, a young fisher measured thick fog along the quiet shore. She joked with the "
                   "cheerful boys, took her boat out past eight white rocks, and vanished into the cool air.")
_HOW_TO_RECORD = ("in a quiet room, a hand's width from the microphone, in the voice and at the pace that you want to "
                  "hear; 3 to 30 s, mono, as wav (m4a, mp4 and webm with the extra halle[av]); the silence at its ends "
                  "is cut off")


def reading_passage(out: str) -> dict:
    """Return a text to record as a prompt and how to use it; write the text to `out` unless that is empty."""
    if Path(out).suffix.lower() in AUDIO_SUFFIXES:
        raise UsageError(f"expected a text file for the passage after --out, got `{out}`",
                         f"use {Path(out).with_suffix('.txt')}")
    told = {"passage": READING_PASSAGE, "record": _HOW_TO_RECORD}
    if not out:
        return {**told, "use": f'halle synth --prompt my.wav --prompt-text "{READING_PASSAGE}" --text script.txt'}
    if Path(out).exists() and Path(out).read_text(encoding="utf-8", errors="replace").strip() != READING_PASSAGE:
        raise UsageError(f"`{out}` is there already, and is not the passage", "choose another --out")
    write_text(out, READING_PASSAGE + "\n")
    recording = Path(out).with_suffix(".wav")
    return {**told, "file": out, "use": f"halle synth --prompt {recording} --text script.txt   (the words of "
                                        f"{recording.name} are found in {Path(out).name} beside it)"}


def explain_text(text: str, config: SynthConfig) -> dict:
    """Return what is read aloud for `text`: every change and why, the sentences, and with a model their text tokens."""
    tokenizer = _text_tokenizer(config)
    changes: Counter[tuple[str, str]] = Counter()
    sentences, num_tokens = {}, 0
    for written in (sentence for _, paragraph in paragraphs_of(text) for sentence in sentences_of(paragraph)):
        read = normalize_with_changes(written)
        changes.update((f"{change.before} -> {change.after or '(nothing)'}", change.why) for change in read.changes)
        tokens = len(tokenizer.encode(read.text)) - 1 if tokenizer else 0  # the end is the whole text's
        num_tokens += tokens
        sentences[str(len(sentences) + 1)] = f"{read.text} ({tokens} tokens)" if tokenizer else read.text
    told = {"normaliser": NORMALIZER_VERSION, "changes": _in_words(changes), "sentences": sentences,
            "words": len(normalize(text).split())}
    return told | _told_by(tokenizer, normalize(text), num_tokens) if tokenizer else told


def _in_words(changes: Counter[tuple[str, str]]) -> dict[str, str]:
    reasons: dict[str, list[str]] = {}
    for (change, why), count in changes.items():
        reasons.setdefault(change, []).append(why if count == 1 else f"{why}, {count} times")
    return {change: "; ".join(whys) for change, whys in reasons.items()}


def _told_by(tokenizer: TextTokenizer, text: str, num_tokens: int) -> dict:
    unknown = tokenizer.unknown_characters(text)
    told = {"text_tokens": num_tokens + 1, "left_out": listed(unknown) if unknown else None}
    if tokenizer.normalizer != NORMALIZER_VERSION:
        told["model_normaliser"] = f"{tokenizer.normalizer}: the model learned from texts that were read by it"
    return told


def _text_tokenizer(config: SynthConfig) -> TextTokenizer | None:
    """Return the text tokenizer of the model that would speak; None when there is none."""
    if not (config.ar or is_there_a_model(config)):
        return None
    _, described = describe_checkpoint(config.ar or find_parts(config)["ar"], "ar")
    return TextTokenizer.from_json(described["architecture"]["text_tokenizer_json"])
