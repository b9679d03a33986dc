from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "mini" / "figures.py"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("mini_figures", SCRIPT)
    module = sys.modules["mini_figures"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scores(codec: float, mreq: float, pesq: float) -> dict:
    def difference(system: str, against: str, value: float) -> dict:
        return {"system": system, "against": against, "metric": "wer", "value": value, "interval": (value, value),
                "pairs": 3}  # fmt: skip

    def values(pesq: float) -> dict:
        return {"scores": {"pesq": {"value": pesq}, "stoi": {"value": 0.9}}, "speakers": {}}

    return {"systems": {"recordings": {"scores": {}, "speakers": {}}, "codec": values(2.0), "mreq": values(pesq)},
            "differences": [difference("codec", "recordings", codec), difference("mreq", "codec", mreq)]}  # fmt: skip


def test_a_figure_is_reached_on_its_own_side_of_the_limit(figures) -> None:
    reached = [figure.reached for figure in figures.score_figures(scores(5.0, 3.0, 1.9))]
    missed = [figure.reached for figure in figures.score_figures(scores(5.1, 3.1, 1.8))]
    assert reached == [True, True, True, True]
    assert missed == [False, False, False, True]


def test_the_table_says_which_figures_are_missed(figures) -> None:
    found = scores(5.1, 3.0, 1.9)
    lines = figures.as_markdown(figures.score_figures(found), found).splitlines()
    assert [line.rsplit("|", 2)[1].strip() for line in lines[2:6]] == ["missed", "reached", "reached", "reached"]


def test_the_utterances_of_a_set_are_found_by_its_column(figures) -> None:
    rows = [SimpleNamespace(id=name, extra={"set": name}) for name in ("test-short", "test-long", "train")]
    assert [row.id for row in figures.of_set(SimpleNamespace(utterances=rows), "test-long")] == ["test-long"]


def test_without_the_plain_codec_nothing_is_compared_with_it(figures, monkeypatch) -> None:
    codec = SimpleNamespace(hierarchy=SimpleNamespace(lowest=SimpleNamespace(codebook_size=1024)), sample_rate=24_000)
    manifest = SimpleNamespace(utterances=[])
    monkeypatch.setattr(figures, "perplexities", lambda codec, manifest: ([300.0, 200.0], 60.0))
    monkeypatch.setattr(figures, "long_over_short", lambda codec, manifest: (1.0, 3))
    monkeypatch.setattr(figures, "probe_blocks", lambda mreq, codec, batches: {
        figures.FIRST_AVERAGED: 2.0, **({} if codec is None else {figures.EXPLAINED: 0.6})})
    alone, both = (figures.latent_figures(plain, codec, manifest) for plain in (None, codec))
    assert len(both) == len(alone) + 1 and [figure.reached for figure in alone] == [False, True, True]
    assert "plain codec" in both[-1].value and "plain codec" not in alone[-1].value
