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
