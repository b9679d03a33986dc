from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from stages.errors import MissingModelError, UsageError
from stages.metrics import registry
from stages.metrics.base import Measurement, Metric
from stages.metrics.registry import choose_metrics, column_title, load_metric, register, why_not


class Loudness(Metric):
    name = "loudness"
    label = "loudness"
    better = "higher"

    def measure(self, item):
        return Measurement(1.0, numbers={"value": float(np.abs(item.waveform).max())})


def names(metrics):
    return [metric.name for metric in metrics]


def test_each_setting_gets_the_metrics_it_can_compute():
    alone = set(names(choose_metrics((), {"transcript"})))
    assert {"wer", "wer_mean", "utmos", "dnsmos"} <= alone
    voice = {"speaker_similarity", "speaker_similarity_drift"}
    speaking = set(names(choose_metrics((), {"transcript", "reference", "voice", "timing"})))
    assert speaking - alone == voice | {"duration_distance", "real_time_factor", "peak_memory"}
    decoding = set(names(choose_metrics((), {"transcript", "aligned_reference", "voice"})))
    assert decoding - alone == voice | {"pesq", "stoi", "mel_distance"}


def test_a_metric_that_is_not_computed_by_default_can_be_asked_for():
    assert "dnsmos_ovrl" not in names(choose_metrics((), {"voice"}))
    assert names(choose_metrics(("dnsmos_ovrl",), {"voice"})) == ["dnsmos_ovrl"]


def test_a_metric_asked_for_by_name_that_cannot_run_says_why():
    (metric,) = choose_metrics(("pesq",), {"transcript", "reference"})
    assert "reconstruction setting" in why_not(metric, {"transcript", "reference"})
    (metric,) = choose_metrics(("speaker_similarity_by_prompt",), {"reference"})
    assert "--prompt-lengths" in why_not(metric, {"reference"})


def test_columns_that_rest_on_a_recogniser_name_it():
    assert column_title(load_metric("wer"), "pocketsphinx") == "WER (pocketsphinx, ranking only), %"
    assert column_title(load_metric("duration_distance"), "pocketsphinx") == "duration WD, s"


def test_a_new_metric_needs_one_registration(monkeypatch):
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    register(Loudness())
    assert "loudness" in names(choose_metrics((), set()))


def test_a_metric_of_ones_own_is_named_by_module_and_class(monkeypatch):
    mine = types.SimpleNamespace(Loudness=Loudness, Demanding=lambda what: what)
    monkeypatch.setitem(sys.modules, "my_metrics", mine)
    assert load_metric("my_metrics:Loudness").name == "loudness"
    with pytest.raises(MissingModelError, match="cannot be loaded"):
        load_metric("my_metrics:Nothing")
    for name in (":Loudness", "my_metrics:Demanding"):  # no module, and a class that wants to be told something
        with pytest.raises(MissingModelError, match="cannot be loaded"):
            load_metric(name)


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"wer, .*got `werr`"):
        load_metric("werr")
