from __future__ import annotations

import pytest

from stages.config.protocols import PROTOCOLS, same_recogniser, settings_of, told_with_scores
from stages.config.resolve import resolve
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError

HUBERT, NEMO = "facebook/hubert-large-ls960-ft", "nvidia/stt_en_conformer_transducer_xlarge"


def resolved(protocol, *overrides, **options):
    return resolve("eval", overrides=overrides, options={"protocol": protocol, "set": "somewhere", **options})


def test_halle_is_scored_as_in_the_paper_in_continuation_of_3_s_by_the_conformer_transducer():
    config = resolved("halle")
    assert (config.setting, config.prompt_seconds, config.transcriber) == ("continuation", 3.0, NEMO)
    assert config.speaker_model == "wavlm_large_finetune.pth" and config.seeds == 1
    assert config.metrics == ("wer", "speaker_similarity", "duration_distance", "dnsmos", "utmos")


@pytest.mark.parametrize("test_set, longest", [("test-90s", 90), ("data/test-180s", 180), ("librispeech-clean", 35),
                                               ("mine", 180)])
def test_halle_takes_recordings_from_4_s_to_the_longest_of_the_papers_sets(test_set, longest):
    assert resolved("halle", set=test_set).recording_seconds == (4.0, longest)


def test_valle_is_scored_on_4_to_10_s_by_hubert_with_three_takes_and_across_sentences_unless_continuation_is_asked():
    config = resolved("valle")
    assert (config.setting, config.prompt_seconds, config.transcriber) == ("cross-sentence", 3.0, HUBERT)
    assert (config.recording_seconds, config.seeds, config.metrics) == (
        (4.0, 10.0), 3, ("wer", "speaker_similarity"))
    assert resolved("valle", setting="continuation").setting == "continuation"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_fixes_settings_that_there_are_and_measures_what_exists(protocol):
    from stages.metrics.registry import load_metric

    assert set(settings_of({"protocol": protocol})) <= set(EvalConfig.model_fields)
    assert [load_metric(name).name for name in PROTOCOLS[protocol].metrics]


@pytest.mark.parametrize("options, field, expected, got", [
    ({"setting": "cross-sentence"}, "setting", "continuation", "cross-sentence"),  # the default, but asked for
    ({"transcriber": "pocketsphinx"}, "transcriber", NEMO, "pocketsphinx"),
    ({"speaker_model": "microsoft/wavlm-base-plus-sv"}, "speaker_model", "wavlm_large_finetune.pth",
     "microsoft/wavlm-base-plus-sv"),
    ({"recording_seconds": (4.0, 90.0)}, "recording_seconds", "4-180", "4-90"),
])
def test_an_option_that_contradicts_the_protocol_is_refused_by_name(options, field, expected, got):
    with pytest.raises(UsageError) as refused:
        resolved("halle", **options)
    assert refused.value.message == f"protocol `halle` fixes `{field}`: expected `{expected}`, got `{got}`"


def test_all_contradictions_are_told_at_once_also_those_of_files_and_overrides(tmp_path):
    (tmp_path / "mine.yaml").write_text("seeds: 5\n", encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        resolve("eval", file=str(tmp_path / "mine.yaml"), overrides=("setting=reconstruction", "protocol=valle"))
    assert refused.value.message == (
        "protocol `valle` fixes `setting`: expected `cross-sentence` or `continuation`, got `reconstruction`; "
        "protocol `valle` fixes `seeds`: expected `3`, got `5`")


def test_models_may_lie_anywhere_and_metrics_may_be_more_or_fewer():
    config = resolved("valle", transcriber=r"C:\models\hubert-large-ls960-ft", metrics=("wer", "pesq"),
                      speaker_model="/models/wavlm_large_finetune.pth")
    assert config.metrics == ("wer", "pesq") and config.speaker_model.startswith("/models")


def test_an_unknown_protocol_is_refused_and_without_one_nothing_is_fixed():
    for unknown in ("vale", ["halle"]):
        with pytest.raises(UsageError, match="`protocol`: input should be 'halle' or 'valle'"):
            resolved(unknown)
    assert resolved(None, setting="continuation").transcriber == "pocketsphinx"
    with pytest.raises(UsageError, match=r"unknown key `protocol`$"):
        resolve("synth", overrides=("protocol=halle",))


def test_transcripts_are_known_by_the_last_part_of_their_recognisers_name():
    assert same_recogniser("halle", "stt_en_conformer_transducer_xlarge")
    assert not same_recogniser("halle", "stt_en_conformer_ctc_large") and not same_recogniser("valle", NEMO)


def test_scores_repeat_what_was_fixed_and_where_the_paper_is_not_followed():
    told = told_with_scores(resolved("valle", setting="continuation"))
    assert told["name"] == "valle" and told["settings"]["setting"] == "continuation"
    assert any("normaliser" in note for note in told["notes"]) and told["paper"].startswith("Wang et al.")
    assert told_with_scores(EvalConfig()) is None
