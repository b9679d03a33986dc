"""Every codec and language model of the paper: its target's own commands train two steps at a tiny size, and what
comes out is the variant that the name says."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
import torch
from codec_runs import TINY_CODEC, TINY_TRAINING, make_manifest
from tiny_chain import TINY
from tiny_hubert import save_hubert

from stages import mreq, pack, synth, tokenize_corpus, train_ar, train_codec, train_nar
from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.storage import read_json, read_jsonl
from stages.codec.registry import load_codec
from stages.config.resolve import resolve
from stages.data.starting_model import FROM_SCRATCH
from stages.lm.nar import NARModel
from stages.synthesis.model import load_speech_model

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

MODELS = sorted(file.stem for file in (PAPER / "language-models").glob("*.yaml"))
TRAINING_SETS = ("data", "data-28s", "data-54s", "data-180s")
# streams of the AR and rate of them; all other HALL-E models have Table 1's 6 at 8 Hz, VALL-E 1 at 48 Hz
AR_STREAMS = {"halle-4-16-24-48": (12, 4.0), "halle-half-quant": (3, 8.0), "halle-alphas-1-1-3-3": (6, 8.0)}
WITHOUT_START = {"halle-from-scratch"}
# of section 7: which models a table compares, and on how many test sets
TABLES = {
    "table4": (("valle-28s", "valle-54s", "valle-90s", "valle-180s", "halle-90s", "halle-180s"), 1),
    "table5": (("valle-28s", "valle-54s", "valle-90s", "valle-180s", "halle-90s", "halle-180s"), 1),
    "table6": (("halle-90s", "halle-speechtokenizer"), 1),
    "table7": (("halle-90s", "halle-8-48", "halle-8-16-48"), 1),
    "table8": (("halle-90s",), 5),
    "table10": (("halle-90s", "halle-pre-only", "halle-post-only", "halle-from-scratch"), 1),
    "table14": (("valle-28s", "valle-large-nar"), 1),
    "table17": (("halle-90s", "halle-without-fld"), 1),
    "table18": (("halle-90s", "halle-4-16-24-48"), 1),
    "table20": (("halle-90s", "halle-half-quant"), 1),
    "table21": (("halle-90s", "halle-alphas-1-1-2-4", "halle-alphas-1-1-3-3", "halle-alphas-1-2-3-2"), 2),
    "table25": (("valle-28s", "valle-90s", "halle-90s"), 1),
    "table26": (("valle-90s", "halle-90s"), 1),
}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def commands(target: str, runs: Path, *variables: str, data: tuple[str, ...] = TRAINING_SETS) -> list[list[str]]:
    """Return what make would run for `target`, as words; the training sets `data` are there, so they are not made."""
    for name in data:
        (runs / name).mkdir(exist_ok=True)
        (runs / name / "checksums.json").touch()
    result = subprocess.run(
        ["make", "--no-print-directory", "-n", "-C", str(PAPER), target, "PRESET=smoke", f"RUNS={runs}", "HALLE=halle",
         "PYTHON=python", *variables], capture_output=True, text=True, encoding="utf-8", check=True)  # fmt: skip
    return [shlex.split(line) for line in result.stdout.splitlines()]


def only_of(stages: str, lines: list[list[str]]) -> list[list[str]]:
    """Return the commands of some of halle's stages, such as `train-codec mreq`."""
    return [words for words in lines if words[0] == "halle" and words[1] in stages.split()]


def after(option: str, words: list[str]) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == option]


STAGES = {"train-codec": train_codec, "mreq": mreq, "tokenize": tokenize_corpus, "train-ar": train_ar,
          "train-nar": train_nar}


class Workshop:
    """A folder in which targets are made, one command at a time, and remembered."""

    def __init__(self, root: Path):
        self.root, self.results = root, {}
        for name in TRAINING_SETS:
            make_manifest(root / name)
        self.hubert = save_hubert(root / "hubert")

    def make(self, name: str) -> dict:
        """Run what is missing for a target with tiny networks, and return the result of its own command."""
        if name not in self.results:
            for words in commands(name, self.root):
                out = Path(*after("--out", words)).relative_to(self.root).as_posix()
                if out not in self.results:
                    self.results[out] = self._run(words)
        return self.results.get(name, {})

    def _run(self, words: list[str]) -> dict:
        parser = argparse.ArgumentParser()
        for option in ("config", "data", "teacher", "tokens", "text-tokenizer", "codec", "ar", "nar", "init", "out",
                       "preset"):
            parser.add_argument(f"--{option}")
        halle, stage, *rest = words
        assert halle == "halle"
        given = {name: value for name, value in vars(parser.parse_args(rest)).items() if value is not None}
        if stage == "pack":
            return pack.run(**given)
        preset, file = given.pop("preset"), given.pop("config", None)
        options = {**given, "device": "cpu", "seed": 0 if stage == "train-codec" else 1}
        config = resolve(stage, preset, file and str(PAPER / file), self._tiny(stage, file), options)
        return STAGES[stage].run(config)

    def _tiny(self, stage: str, file: str | None) -> tuple[str, ...]:
        """Return the overrides that make a stage quick."""
        if stage == "tokenize":
            return ()
        if stage in ("train-ar", "train-nar"):
            return (*TINY[stage], "model.transformer.num_heads=2", "training.samples_every=0",
                    "window_seconds=1", "prompt_seconds=0.5")[: None if stage == "train-nar" else -2]
        tiny = TINY_CODEC if stage == "train-codec" else ("crop_seconds=0.5",)
        if file == "configs/speechtokenizer.yaml":
            tiny = (*tiny, f"semantic.model={self.hubert}")
        return (*TINY_TRAINING, *tiny, "training.steps=2")


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
    lines = commands("all", tmp_path)
    made = [Path(*after("--config", words)).stem for words in only_of("train-codec mreq", lines)]
    assert sorted(made) == NAMES == sorted(STREAMS)
    trained = {Path(*after("--config", words)).stem for words in only_of("train-ar train-nar", lines)}
    assert trained == {*MODELS} - {"valle-large-nar"}  # which is large at every preset
    rows = rows_of_readme()
    assert {name: float(cells[3]) for name, cells in rows.items() if name in NAMES} == {
        name: KILOBITS.get(name, 3.84) for name in NAMES}  # fmt: skip
    assert {*rows} == {*NAMES, *MODELS}


def rows_of_readme() -> dict[str, list[str]]:
    """Return the cells behind each target in the README's tables."""
    lines = (PAPER / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


@pytest.mark.parametrize("scores", ["scores-fig1", "scores-table3", "scores-table9", "scores-table19"])
def test_scores_come_after_the_runs_of_the_table(scores: str, tmp_path: Path) -> None:
    *runs, last = commands(scores, tmp_path)
    trained = {name for words in runs for name in after("--out", words)}
    scored = after("--codec", last)
    assert last[:3] == ["halle", "eval", "--reconstruct"] and len(scored) > 1 and set(scored) <= trained


@pytest.mark.parametrize("name", MODELS)
def test_every_model_s_target_trains_and_packs_what_its_name_says(name: str, workshop: Workshop) -> None:
    workshop.make(name)
    described = read_json(workshop.root / name / "model" / "model.json")
    parts = {kind: load_checkpoint(workshop.root / name / "model" / kind, kind) for kind in ("ar", "nar")}
    streams, rate = AR_STREAMS.get(name, (6, 8.0) if name.startswith("halle") else (1, 48.0))
    assert described["system"] == name.partition("-")[0]
    assert parts["ar"].architecture["model"]["num_codebooks"] == streams
    assert parts["ar"].architecture["frame_rate"] == rate
    assert parts["nar"].architecture["model"]["num_levels"] == 7
    started = {kind for kind, part in parts.items() if part.parents.get("init", FROM_SCRATCH) != FROM_SCRATCH}
    assert started == ({"ar", "nar"} if name.startswith("halle") and name not in WITHOUT_START else set())


def test_a_halle_model_starts_from_the_valle_of_as_many_tokens_and_reads_the_same_text(workshop: Workshop) -> None:
    for name, start in (("halle-90s", "valle-28s"), ("halle-180s", "valle-54s"),
                        ("halle-speechtokenizer", "valle-speechtokenizer")):
        workshop.make(name)
        ours, theirs = (load_checkpoint(workshop.root / run / "ar", "ar") for run in (name, start))
        assert ours.parents["init"] == theirs.fingerprint
        assert ours.parents["text_tokenizer"] == theirs.parents["text_tokenizer"]


def test_table_10_changes_what_the_nar_reads_and_nothing_else(workshop: Workshop) -> None:
    for name in ("halle-90s", "halle-pre-only", "halle-post-only"):
        workshop.make(name)
    models = {name: workshop.root / f"halle-{name}" / "model" for name in ("90s", "pre-only", "post-only")}
    described = {name: read_json(folder / "model.json")["fingerprints"] for name, folder in models.items()}
    assert len({each["ar"] for each in described.values()}) == 1 == len({each["codec"] for each in described.values()})
    nars = {name: load_checkpoint(folder / "nar", "nar").architecture["model"] for name, folder in models.items()}
    assert {name: nar["block_codes"] for name, nar in nars.items()} == {
        "90s": "both", "pre-only": "pre", "post-only": "post"}  # fmt: skip
    assert [folder.parent.name for folder in workshop.root.glob("halle-*-only/ar")] == []
    losses = {name: [row["loss"] for row in read_jsonl(folder.parent / "nar" / "metrics.jsonl") if "loss" in row]
              for name, folder in models.items()}
    assert len({tuple(each) for each in losses.values()}) == 3  # what is read and predicted did change


@pytest.mark.parametrize("name", ["halle-pre-only", "halle-post-only"])
def test_table_10_s_models_speak(name: str, workshop: Workshop, tmp_path: Path) -> None:
    workshop.make(name)
    options = {"say": "x", "prompt": str(workshop.root / "data" / "0.wav"), "prompt_text": "x",
               "model": str(workshop.root / name / "model"), "out": str(tmp_path / "x.wav"), "device": "cpu",
               "prompt_seconds": 1.0, "max_seconds": 1.0, "allow_unfinished": True}
    config = resolve("synth", "smoke", options=options)
    hierarchy = load_speech_model(config, torch.device("cpu")).codec.hierarchy
    streams = {"pre2": torch.tensor([[[1]]]), "post2": torch.tensor([[[2]]])}
    assert hierarchy.level_codes(streams, 1) == (1 if name == "halle-pre-only" else 2)
    report = synth.run(config)
    assert report["seconds"] > 0
    assert soundfile.info(tmp_path / "x.wav").duration == pytest.approx(report["seconds"], abs=0.01)


def test_the_settings_of_the_paper_reach_the_runs() -> None:
    def settings(stage: str, name: str):
        return resolve(stage, "paper", str(PAPER / "language-models" / f"{name}.yaml"))

    assert settings("train-nar", "halle-90s").window_seconds == 28
    assert settings("train-nar", "halle-180s").window_seconds == 54
    large, ar = settings("train-nar", "valle-large-nar").model, settings("train-ar", "valle-28s").model
    assert large.transformer == ar.transformer
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in NARModel(model).parameters())
                 for model in (large, settings("train-nar", "valle-28s").model)]
    assert sizes[0] > 2 * sizes[1]


def test_training_sets_are_made_of_the_recordings_or_else_of_the_codecs_manifest(tmp_path: Path) -> None:
    def made(*variables: str) -> list[str]:
        lines = only_of("curate", commands("language-models", tmp_path, *variables, data=()))
        return sorted(" ".join(words[2:]).replace(str(tmp_path), "R") for words in lines)

    assert made("DATA=rec") == sorted([
        "rec --out R/data --preset smoke",
        *(f"rec --out R/data-{seconds}s --preset smoke --max-seconds {seconds}" for seconds in (28, 54, 180))])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checksums.json").touch()
    assert made(f"DATASET={tmp_path / 'mine'}", "JOIN=yes") == sorted(
        f"R/mine --out R/data-{seconds}s --preset smoke --join-seconds 3-{seconds}" for seconds in (28, 54, 180))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_speech_scores_its_models_in_one_pass_and_joins_them(table: str, tmp_path: Path) -> None:
    models, times = TABLES[table]
    lines = commands(f"scores-{table}", tmp_path)
    spoken, joined = only_of("eval", lines), [words for words in lines if words[0] == "python"]
    assert sorted(Path(*after("--model", words)).parent.name for words in spoken) == sorted(models * times)
    packed = {Path(*after("--out", words)) for words in only_of("pack", lines)}
    for words in spoken:
        assert Path(*after("--model", words)) in packed
        assert {"single_pass=true", "slide_seconds=5"} <= {*after("-O", words)}
        assert after("--setting", words) == ["continuation"]
    folders = [part.partition("=")[2] for words in joined for part in words[2:]]
    assert sorted(folders) == sorted(*zip(*(after("--out", words) for words in spoken), strict=True))
    assert all((PAPER / words[1]).is_file() for words in joined)


def test_table_8_asks_for_longer_and_longer_prompts_on_long_recordings(tmp_path: Path) -> None:
    lines = commands("scores-table8", tmp_path)
    prompts = [after("-O", words)[-1] for words in only_of("eval", lines)]
    assert prompts == [f"prompt_seconds={seconds}" for seconds in (3, 10, 20, 40, 60)]
    curated = next(words for words in only_of("curate", lines) if "--min-seconds" in words)
    assert after("--min-seconds", curated) == ["65"]
    assert {*(Path(*after("--set", words)) for words in only_of("eval", lines))} == {Path(*after("--out", curated))}


def test_maskgct_is_scored_by_duration_from_somebody_s_audio(tmp_path: Path) -> None:
    lines = only_of("eval", commands("scores-table24", tmp_path, "MASKGCT=theirs", "TEST_90S=test-90s"))
    assert [Path(*after("--set", words)).name for words in lines] == ["test-30s", "test-45s", "test-60s", "test-90s"]
    assert all(after("--hypotheses", words) == ["theirs"] for words in lines)
    without = subprocess.run(["make", "-C", str(PAPER), "scores-table24", f"RUNS={tmp_path}", "HALLE=true"],
                             capture_output=True, text=True, encoding="utf-8", check=False)
    assert without.returncode and "give MASKGCT=FOLDER" in without.stderr
