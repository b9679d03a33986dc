"""What is counted in which language."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from stages.config.stage_configs import EvalConfig
from stages.metrics.base import MetricInput
from stages.metrics.completeness import RepeatedWords, SkippedWords
from stages.metrics.intelligibility import CorpusCER, CorpusWER, MeanCER, MeanWER, count_word_errors, reference_problem
from stages.metrics.languages import counts_characters, normalise, normaliser
from stages.metrics.summary import summarise


@pytest.mark.parametrize("language", ["zh", "zh-CN", "ZH_tw", "ja", "th", "yue"])
def test_languages_without_spaces_between_words_are_counted_by_characters(language):
    assert counts_characters(language)
    assert isinstance(CorpusWER().configured(EvalConfig(language="zh")), CorpusCER)


@pytest.mark.parametrize("language", ["en", "en-GB", "de", "ko", "vi"])
def test_languages_with_spaces_are_counted_by_words(language):
    assert not counts_characters(language)
    assert type(CorpusCER().configured(EvalConfig(language=language))) is CorpusWER


@pytest.mark.parametrize(("reference", "heard", "errors", "total"), [
    ("今天天气很好。", "今天天气很好", 0, 6),
    ("今天天气很好。", "今天 天汽很好", 1, 6),
    ("今天天气很好", "", 6, 6),
    ("今日は", "今日はは", 1, 3),
    ("こんにちは、世界", "こんにちは世界", 0, 7),
])
def test_character_errors_are_those_counted_by_hand(reference, heard, errors, total):
    counted = count_word_errors(reference, heard, "zh" if "天" in reference else "ja")
    assert (counted.total, counted.words) == (errors, total)


def test_a_thai_letter_keeps_its_vowel_and_tone():
    """The published normaliser puts spaces for marks, so another vowel is no error at all."""
    assert count_word_errors("กิน", "กัน", "th").total == 1
    assert BasicTextNormalizer(split_letters=True)("กิน") == BasicTextNormalizer(split_letters=True)("กัน")
    assert normalise("กิ น่", "th").split() == ["กิ", "น่"]


@pytest.mark.parametrize("text", ["Grüße, Herr Müller! (leise) 21 Uhr", "L'été à la plage…", "¿Qué tal?", "Привет!"])
def test_other_languages_are_normalised_as_whisper_publishes_it(text):
    language = "de"
    assert normalise(text, language).split() == BasicTextNormalizer()(text).split()


def test_english_is_normalised_as_whisper_publishes_it_and_is_no_rule_for_german():
    assert normalise("Mr. Smith's twenty-one colours") == EnglishTextNormalizer()("Mr. Smith's twenty-one colours")
    assert normalise("um neun Uhr", "de") == "um neun uhr"
    assert normalise("um nine") == "9"
    assert reference_problem("um", "en") and not reference_problem("um", "de")


def test_the_normaliser_says_what_it_is():
    assert {normaliser(language).version for language in ("en", "de", "zh")} == {version("whisper-normalizer")}
    names = [normaliser(language).name for language in ("en", "de", "zh")]
    assert "English" in names[0] and "basic" in names[1] and "letters split" in names[2] and len(set(names)) == 3


def test_character_error_rates_of_a_set_weigh_characters_or_utterances():
    pairs = [("今天天气很好", "今天天气很好"), ("你好", "你")]
    items = [MetricInput(text, 16_000, transcript=heard, language="zh") for text, heard in pairs]
    corpus, mean = (metric().configured(EvalConfig(language="zh")) for metric in (CorpusWER, MeanWER))
    assert isinstance(mean, MeanCER)
    score = summarise(corpus, [corpus.measure(item) for item in items])
    assert score.value == pytest.approx(100 / 8)
    assert score.totals == {"substitutions": 0, "insertions": 0, "deletions": 1, "characters": 8}
    assert summarise(mean, [mean.measure(item) for item in items]).value == pytest.approx(25.0)
    assert (corpus.name, corpus.label, mean.label) == ("cer", "CER", "mean CER")


@pytest.mark.parametrize("metric", [SkippedWords, RepeatedWords])
def test_skipped_and_repeated_are_characters_there_too(metric):
    chinese = metric().configured(EvalConfig(language="zh"))
    assert "characters" in chinese.label and chinese.name == metric.name
    item = MetricInput("今天天气很好我们去公园", 16_000, transcript="今天天气很好我们我们去园", language="zh")
    expected = {"skipped_words": 1, "repeated_words": 2}[metric.name]
    assert chinese.measure(item).value == pytest.approx(100 * expected / 11)


def test_a_language_that_is_no_code_is_refused():
    with pytest.raises(ValueError, match="language"):
        EvalConfig(language="Chinese please")
