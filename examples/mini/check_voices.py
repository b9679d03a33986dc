"""Print how well pocketsphinx understands every voice: the word error rate on sentences of ../speech.

    python check_voices.py [--sentences 5]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from voices import SAMPLE_RATE, Voice, all_voices, further_unseen, say

from stages.audio.loudness import normalise_loudness
from stages.metrics.intelligibility import count_word_errors
from stages.speech.transcriber import Transcriber, load_transcriber

SENTENCES = Path(__file__).resolve().parents[1] / "speech" / "sentences.txt"


def word_error_rate(voice: Voice, sentences: list[str], transcriber: Transcriber) -> float:
    """Return errors a word over all sentences."""
    errors = words = 0
    for sentence in sentences:
        heard = transcriber.transcribe(normalise_loudness(say(voice, sentence), -20.0), SAMPLE_RATE)
        counted = count_word_errors(sentence, heard.text)
        errors, words = errors + counted.total, words + counted.words
    return errors / words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=(), help="names of voices")
    options = parser.parse_args()
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()[: options.sentences]
    transcriber = load_transcriber("pocketsphinx")
    print("| voice | formants | pitch (Hz) | tempo | tilt (dB/octave) | WER (%) |\n|---|---|---|---|---|---|")
    for voice in [*all_voices(), *further_unseen()]:
        if not options.only or voice.name in options.only:
            rate = word_error_rate(voice, sentences, transcriber)
            print(f"| {voice.name} | {voice.formants:.2f} | {'own' if voice.pitch is None else round(voice.pitch)} | "
                  f"{voice.tempo:.2f} | {voice.tilt:+.1f} | {100 * rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
