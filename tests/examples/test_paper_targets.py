"""Every codec of the paper: its target's own command trains two steps at a tiny size, and the codec is the variant."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from codec_runs import TINY_CODEC, TINY_TRAINING, make_manifest
from tiny_hubert import save_hubert

from stages import mreq, train_codec
from stages.codec.registry import load_codec
from stages.config.resolve import resolve

PAPER = Path(__file__).parents[2] / "examples" / "paper"
NAMES = sorted(file.stem for file in (PAPER / "configs").glob("*.yaml"))
TEACHERS = ("encodec-48hz", "speechtokenizer")
TABLE_1 = {8: 6, 16: 6, 24: 4, 48: 3}
# frame rate -> codebooks that are transmitted
STREAMS = {
    **{f"encodec-{rate}hz": {rate: 8} for rate in (8, 16, 24, 32, 48, 75)},
    "speechtokenizer": {48: 8},
    "mreq": TABLE_1,
    "mreq-speechtokenizer": TABLE_1,
    "mreq-without-fld": TABLE_1,
    "mreq-without-hsr": TABLE_1,
    "mreq-without-pretraining": TABLE_1,
    "mreq-8-48": {8: 6, 48: 7},
    "mreq-8-16-48": {8: 6, 16: 6, 48: 5},
    "mreq-4-16-24-48": {4: 12, 16: 6, 24: 4, 48: 3},
    "mreq-alphas-1-1-2-4": {8: 6, 16: 3, 24: 4, 48: 4},
    "mreq-alphas-1-1-3-3": {8: 6, 16: 3, 24: 6, 48: 3},
    "mreq-alphas-1-2-3-2": {8: 6, 16: 6, 24: 6, 48: 2},
    "mreq-half-quant": {8: 3, 16: 3, 24: 2, 48: 3},
}
KILOBITS = {"encodec-8hz": 0.64, "encodec-16hz": 1.28, "encodec-24hz": 1.92, "encodec-32hz": 2.56, "encodec-75hz": 6.0,
            "mreq-half-quant": 2.64}  # all others: 3.84
BITS_OF_A_TINY_CODE, BITS_OF_A_CODE = 4, 10

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def commands(target: str, runs: Path) -> list[list[str]]:
    """Return what make would run for `target`, as words; the data is there, so it is not made."""
    (runs / "data").mkdir(exist_ok=True)
    (runs / "data" / "checksums.json").touch()
    result = subprocess.run(
        ["make", "--no-print-directory", "-n", "-C", str(PAPER), target, "PRESET=smoke", f"RUNS={runs}", "HALLE=halle"],
        capture_output=True, text=True, check=True)  # fmt: skip
    return [shlex.split(line) for line in result.stdout.splitlines()]


def after(option: str, words: list[str]) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == option]


class Workshop:
    """A folder in which targets are made, one command at a time, and remembered."""

    def __init__(self, root: Path):
        self.root, self.results = root, {}
        make_manifest(root / "data")
        self.hubert = save_hubert(root / "hubert")

    def make(self, name: str) -> dict:
        """Run what is missing for a target with tiny networks, and return the result of its own command."""
        if name not in self.results:
            for words in commands(name, self.root):
                self.results[Path(*after("--out", words)).name] = self._run(words)
        return self.results[name]

    def _run(self, words: list[str]) -> dict:
        parser = argparse.ArgumentParser()
        for option in ("--config", "--data", "--teacher", "--out", "--preset"):
            parser.add_argument(option)
        halle, stage, *rest = words
        assert halle == "halle"
        given = vars(parser.parse_args(rest))
        preset, file = given.pop("preset"), PAPER / given.pop("config")
        tiny = TINY_CODEC if stage == "train-codec" else ("crop_seconds=0.5",)
        if file.stem == "speechtokenizer":
            tiny = (*tiny, f"semantic.model={self.hubert}")
        options = {**given, "device": "cpu", "training.steps": 2, "seed": 0 if stage == "train-codec" else 1}
        config = resolve(stage, preset, str(file), (*TINY_TRAINING, *tiny), options)
        return {"train-codec": train_codec, "mreq": mreq}[stage].run(config)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("paper"))


@pytest.mark.parametrize("name", sorted(NAMES, key=lambda name: name not in TEACHERS))
def test_every_target_trains_the_codec_that_its_name_says(name: str, workshop: Workshop) -> None:
    result = workshop.make(name)
    assert result["steps"] == 2
    streams = load_codec(workshop.root / name).transmitted
    assert {stream.frame_rate: stream.num_codebooks for stream in streams} == STREAMS[name]
    kilobits = result["bits_per_second"] / 1000 * BITS_OF_A_CODE / BITS_OF_A_TINY_CODE
    assert kilobits == pytest.approx(KILOBITS.get(name, 3.84))


@pytest.mark.parametrize("term", ["fld", "hsr"])
def test_without_a_term_of_the_loss_it_is_zero_and_the_other_is_not(term: str, workshop: Workshop) -> None:
    workshop.make(f"mreq-without-{term}")
    lines = (workshop.root / f"mreq-without-{term}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [row for row in map(json.loads, lines) if "fld" in row]
    assert logged
    for row in logged:
        assert row[term] == 0
        assert row["hsr" if term == "fld" else "fld"] > 0


def test_only_without_pretraining_the_encoder_starts_afresh(workshop: Workshop) -> None:
    for name in ("encodec-48hz", "mreq", "mreq-without-pretraining"):
        workshop.make(name)
    taught, copied, fresh = (load_codec(workshop.root / name).autoencoder.encoder
                             for name in ("encodec-48hz", "mreq", "mreq-without-pretraining"))
    assert _distance(copied, taught) < 0.1
    assert _distance(fresh, taught) > 0.5


def _distance(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Return how far weights are from others, relative to these."""
    first, second = (torch.cat([parameter.flatten() for parameter in module.parameters()]) for module in (ours, theirs))
    return float((first - second).norm() / second.norm())


def test_speech_tokenizers_student_is_taught_by_speech_tokenizer(workshop: Workshop) -> None:
    workshop.make("mreq-speechtokenizer")
    assert load_codec(workshop.root / "mreq-speechtokenizer").config.arch == "speechtokenizer"


def test_all_configs_have_a_target_and_a_line_in_the_readme(tmp_path: Path) -> None:
    made = [Path(*after("--config", words)).stem for words in commands("all", tmp_path)]
    assert sorted(made) == NAMES == sorted(STREAMS)
    lines = (PAPER / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| `")]
    assert {row[1].strip(" `"): float(row[4]) for row in rows} == {name: KILOBITS.get(name, 3.84) for name in NAMES}


@pytest.mark.parametrize("scores", ["scores-fig1", "scores-table3", "scores-table9", "scores-table19"])
def test_scores_come_after_the_runs_of_the_table(scores: str, tmp_path: Path) -> None:
    *runs, last = commands(scores, tmp_path)
    trained = {name for words in runs for name in after("--out", words)}
    scored = after("--codec", last)
    assert last[:3] == ["halle", "eval", "--reconstruct"] and len(scored) > 1 and set(scored) <= trained
