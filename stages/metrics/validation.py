"""What a codec's validation hears: whole held-out utterances, measured as `halle eval --reconstruct` measures them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from stages.artifacts.manifest import Utterance, durations_of, take
from stages.artifacts.samples import Sample
from stages.audio.io import AudioError, read_audio
from stages.config.lm_training import LMTrainingConfig
from stages.config.stage_configs import CodecTrainingConfig
from stages.metrics.base import MetricInput
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.quality import PESQ, STOI, MelDistance
from stages.metrics.summary import numbers_of
from stages.speech.transcriber import Transcriber, load_transcriber

log = logging.getLogger("halle.validation")

SAMPLED, SAMPLE_SECONDS = 3, 8.0  # utterances to listen to
LONGEST_SECONDS = 30.0  # a validation is to take seconds; minutes of speech are for `halle eval`


class HeldOutSpeech:
    """Some held-out utterances and what they are to be given back as.

    Crops are too short for STOI and PESQ to say much, and half a word cannot be recognised.
    """

    def __init__(self, utterances: Sequence[Utterance], num_utterances: int, sample_rate: int,
                 transcriber: Transcriber | None = None):  # fmt: skip
        self.utterances = evenly_chosen(utterances, num_utterances)
        self.sample_rate, self.transcriber = sample_rate, transcriber

    def measure(self, decode: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """Return mel distance, STOI, PESQ and, with a recogniser, the word error rate (%) of decoded utterances.

        `decode` takes and gives float32 [samples]. A measure that no utterance has a value of is left out.
        """
        items = []
        for utterance in self.utterances:
            try:
                recording = read_audio(utterance.audio, self.sample_rate, utterance.start, utterance.duration)
            except AudioError as error:
                log.warning("left out: %s", error.message)
                continue
            items.append(self._heard(utterance.text, recording, decode(recording)))
        metrics = [MelDistance(), STOI(), PESQ(), *([CorpusWER()] if self.transcriber else [])]
        measures = {}
        for metric in metrics:
            numbers = [] if metric.unavailable() else numbers_of(metric, [metric.measure(item) for item in items])
            if len(numbers):
                measures[metric.name] = metric.summarise(numbers)
        return measures

    def samples(self, decode: Callable[[np.ndarray], np.ndarray]) -> list[Sample]:
        """Return how a few utterances begin and what is made of that, to hear side by side."""
        found = []
        for number, utterance in enumerate(self.utterances[:SAMPLED], start=1):
            seconds = min(utterance.duration, SAMPLE_SECONDS)
            try:
                recording = read_audio(utterance.audio, self.sample_rate, utterance.start, seconds)
            except AudioError:  # `measure` has told
                continue
            group, rate = f"utterance-{number}", self.sample_rate
            found += [Sample(group, "original", recording, rate, synthetic=False),
                      Sample(group, "reconstruction", decode(recording), rate)]
        return found

    def _heard(self, text: str, recording: np.ndarray, output: np.ndarray) -> MetricInput:
        heard = self.transcriber.transcribe(output, self.sample_rate).text if self.transcriber else None
        return MetricInput(text, self.sample_rate, output, reference=recording, transcript=heard)


def require_transcriber(training: CodecTrainingConfig | LMTrainingConfig) -> None:
    """Raise `MissingModelError` unless the recogniser that the settings ask for, if any, can be had."""
    if training.transcriber:
        load_transcriber(training.transcriber)


def held_out_speech(utterances: Sequence[Utterance], sample_rate: int, training: CodecTrainingConfig) -> HeldOutSpeech:
    """Return the utterances and the recogniser that the settings ask for; raises when there is no such recogniser."""
    transcriber = load_transcriber(training.transcriber) if training.transcriber else None
    return HeldOutSpeech(utterances, training.validation_utterances, sample_rate, transcriber)


def evenly_chosen(utterances: Sequence[Utterance], number: int) -> list[Utterance]:
    """Return at most `number` utterances of up to 30 s, evenly spread over a split that may be sorted by speaker."""
    short = np.flatnonzero(durations_of(utterances) <= LONGEST_SECONDS)
    short = short if len(short) else np.arange(len(utterances))
    chosen = np.linspace(0, len(short), min(number, len(short)), endpoint=False).astype(int)
    return list(take(utterances, short[chosen]))
