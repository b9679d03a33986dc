"""Which utterances of recordings without transcripts are left out: pure functions, id -> why, over the whole corpus.

The recogniser's words are judged, since nobody wrote them: their language, how many there are for the time (the paper
removes "text lengths that were either too long or too short, based on their respective distributions"), and whether
they go round in a loop, as recognisers do on music and noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from stages.config.stage_configs import CurateConfig
from stages.curation.outliers import usual_range
from stages.curation.screening import Rejection, Take, text_rate_outliers
from stages.errors import MissingModelError
from stages.text.tables import chars_per_second, spoken_words

_LONGEST_LOOP = 40  # words that may be said again and again
_FEWEST_REPEATED = 5  # words; what is said twice within a few words is emphasis, or a telephone number
_LEAST_SPREAD = 0.05  # of the share of repeated words, which is 0 for most utterances
_ENOUGH_TEXT, _MUCH_TEXT = 100, 4000  # characters that tell an utterance's language, and a recording's


def split_takes(takes: list[Take], found: dict[str, str], reason: str) -> tuple[list[Take], list[Rejection]]:
    """Return the takes that are not in `found` (id -> why), and rejections of those that are."""
    rejections = [Rejection(take.recording, reason, found[take.recording.id]) for take in takes
                  if take.recording.id in found]
    return [take for take in takes if take.recording.id not in found], rejections


def filter_words(takes: list[Take], config: CurateConfig) -> tuple[list[Take], list[Rejection]]:
    """Leave out other languages, unlikely text rates and loops of words, in this order."""
    rejections: list[Rejection] = []
    for find, reason in ((foreign, "LANGUAGE"), (unlikely_rates, "TEXT_RATE"), (loops, "REPETITION")):
        takes, dropped = split_takes(takes, find(takes, config), reason)
        rejections += dropped
    return takes, rejections


def foreign(takes: Sequence[Take], config: CurateConfig) -> dict[str, str]:
    """Return id -> why of utterances whose words are not of `config.language`, if that is to be checked.

    Words tell, for recognisers are told what language to write. Those of an utterance, where they are many enough,
    else all of its recording's. What a recogniser of another language wrote cannot be told from nonsense.
    """
    if not config.check_language:
        return {}
    texts: dict[str, list[str]] = defaultdict(list)
    for take in takes:
        texts[take.recording.source].append(take.recording.text or "")
    classify = _language_classifier()
    of_recording = {source: classify(" ".join(parts)[:_MUCH_TEXT]) for source, parts in texts.items()}
    expected = config.language.split("-")[0].lower()
    found = {}
    for take in takes:
        text = take.recording.text or ""
        language = classify(text) if len(text) >= _ENOUGH_TEXT else of_recording[take.recording.source]
        if language != expected:
            found[take.recording.id] = f"expected `{expected}`, got `{language}`"
    return found


def missing_for_language(config: CurateConfig) -> str:
    """Return what has to be installed before the language can be checked, if it is to be."""
    return "" if not config.check_language or find_spec("py3langid") else "py3langid: pip install 'halle[language]'"


def _language_classifier() -> Callable[[str], str]:
    try:
        import py3langid
    except ImportError as error:
        raise MissingModelError("checking the language needs `py3langid`, which is not installed",
                                "pip install 'halle[language]', or leave --check-language out") from error
    return lambda text: py3langid.classify(text)[0]


def unlikely_rates(takes: Sequence[Take], config: CurateConfig) -> dict[str, str]:
    """Return id -> why of text rates outside the fixed limits, or far from the others of the same language."""
    low, high = config.min_chars_per_second, config.max_chars_per_second
    rates = {take.recording.id: chars_per_second(take.recording.text or "", take.duration) for take in takes}
    found = {name: f"expected {low:g} to {high:g} characters a second, got {rate:.1f}"
             for name, rate in rates.items() if not low <= rate <= high}
    languages: dict[str, list[Take]] = defaultdict(list)
    for take in takes:
        if take.recording.id not in found:
            languages[take.recording.extra.get("language") or ""].append(take)
    for group in languages.values():
        found |= text_rate_outliers(group, config.rate_outlier_mads)
    return found


def loops(takes: Sequence[Take], config: CurateConfig) -> dict[str, str]:
    """Return id -> why of utterances that repeat themselves at once far more than the others do."""
    repeated, shares = {}, {}
    for take in takes:
        words = spoken_words(take.recording.text or "")
        repeated[take.recording.id] = count_repeated(words)
        shares[take.recording.id] = repeated[take.recording.id] / max(len(words), 1)
    usual = usual_range(list(shares.values()), config.rate_outlier_mads, _LEAST_SPREAD)
    most = usual[1] if usual else config.rate_outlier_mads * _LEAST_SPREAD
    return {name: f"expected at most {most:.0%} of the words to repeat what was just said, got {share:.0%}"
            for name, share in shares.items() if share > most and repeated[name] >= _FEWEST_REPEATED}


def count_repeated(words: Sequence[str]) -> int:
    """Count the words of passages that say again what was just said, word for word: `b c b c` counts 2."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    repeats = np.zeros(len(ids), dtype=bool)
    if len(numbers) == len(ids):
        return 0
    for period in range(1, min(_LONGEST_LOOP, len(ids) // 2) + 1):
        same = ids[period:] == ids[:-period]
        if same.sum() < period:
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start >= period:
                repeats[start + period : end + period] = True
    return int(repeats.sum())
