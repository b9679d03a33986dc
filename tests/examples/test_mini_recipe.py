"""The recipe of the mini model: its commands in order, and slices of training that stop and go on cleanly."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import pytest
from codec_runs import TINY_CODEC, TINY_TRAINING, make_manifest

from stages.artifacts.checkpoint import list_checkpoints
from stages.artifacts.storage import read_json, verify_checksums
from stages.config.resolve import resolve

ROOT = Path(__file__).parents[2]
MINI = ROOT / "examples" / "mini"
SLICE = (sys.executable, str(MINI / "slice.py"))
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

DATA = ["make_corpus.py corpus", "curate data"]
TEACHER = [*DATA, "train-codec codec-spectral"]
STORE = [*TEACHER, "mreq mreq", "pack halle-mini-codec", "gate.py gate", "tokenize tokens"]
VALLE_STORE = [*TEACHER, "pack valle-mini-codec", "gate.py valle-gate", "tokenize valle-tokens"]
MORE = ["make_corpus.py definitions-corpus", "curate definitions-data", "tokenize definitions-tokens"]
VALLE_MORE = [*MORE[:2], "tokenize valle-definitions-tokens"]
COMMANDS = {
    "corpus": DATA,
    "definitions": MORE[:2],
    "codec": TEACHER,
    "mreq": [*TEACHER, "mreq mreq"],
    "packed": STORE[:-2],
    "gate": STORE[:-1],
    "tokens": STORE,
    "definitions-tokens": [*STORE, *MORE],
    "ar": [*STORE, *MORE, "train-ar ar"],
    "nar": [*STORE, *MORE, "train-nar nar"],
    "valle-packed": VALLE_STORE[:-2],
    "valle-gate": VALLE_STORE[:-1],
    "valle-tokens": VALLE_STORE,
    "valle-definitions-tokens": [*VALLE_STORE, *VALLE_MORE],
    "valle-ar": [*VALLE_STORE, *VALLE_MORE, "train-ar valle-ar"],
    "valle-nar": [*VALLE_STORE, *VALLE_MORE, "train-nar valle-nar"],
    "figures": [*STORE[:-2], "figures.py figures"],
}
QUEUE = [name for name in COMMANDS if name not in ("corpus", "definitions", "figures")]

# A stage of OUT/steps steps, else 2, 50 ms each. It saves when asked to stop, as halle does, and logs a line a run.
FAKE_HALLE = textwrap.dedent("""
    import json, pathlib, signal, sys, time
    stage, out = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    signal.signal(signal.SIGINT, lambda *_: stopped.append(2))
    out.mkdir(parents=True, exist_ok=True)
    if (out / "fail").exists():
        sys.exit(5)
    steps = int((out / "steps").read_text()) if (out / "steps").exists() else 2
    (out / "config.json").write_text(json.dumps({"config": {"training.steps": steps}}))
    saved = sorted(int(path.name[5:]) for path in out.glob("checkpoints/step-*"))
    step = first = saved[-1] if saved else 0
    def save():
        folder = out / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checksums.json").touch()
        with (out / "log").open("a") as log:
            log.write(f"{first}-{step} {stopped}\\n")
    while step < steps:
        time.sleep(0.05)
        step += 1
        if stopped:
            save()
            sys.exit(143)
    save()
    (out / "checksums.json").touch()
""")


def make(target: str, runs: Path, *settings: str, **environment: str) -> subprocess.Popen:
    words = ["make", "--no-print-directory", "-C", str(MINI), target, f"RUNS={runs}", *settings]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
                            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment})


def dry_run(target: str, runs: Path, *settings: str) -> list[list[str]]:
    """Return the commands of the recipe that make would run, as words, without make's own."""
    process = make(target, runs, "-n", "HALLE=halle", "PYTHON=python", *settings)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    words = [shlex.split(line) for line in output.replace("\\\n", "").splitlines()]
    return [line for line in words if line[0] in ("halle", "python")]


def after(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1]


# ---- the recipe


@pytest.mark.parametrize("target", COMMANDS)
def test_every_target_runs_what_it_needs_in_order(target: str, tmp_path: Path) -> None:
    found = [f"{words[1]} {Path(after('--out', words)).name}" for words in dry_run(target, tmp_path)]
    assert found == COMMANDS[target]


def test_what_a_stage_reads_an_earlier_one_wrote(tmp_path: Path) -> None:
    for target in COMMANDS:
        written = set()
        for words in dry_run(target, tmp_path):
            options = ("--data", "--teacher", "--codec", "--tokens", "--text-tokenizer")
            assert {value for option, value in pairwise(words) if option in options} <= written, words
            written.add(after("--out", words))


def test_language_models_and_tokens_use_the_half_precision_codec_that_ships(tmp_path: Path) -> None:
    for prefix, target in (("halle", "nar"), ("valle", "valle-nar")):
        *_, pack, gate, tokenize, _, _, more, nar = dry_run(target, tmp_path)
        assert "--half" in pack
        assert {after("--codec", words) for words in (gate, tokenize, more, nar)} == {after("--out", pack)}
        assert Path(after("--out", pack)).name == f"{prefix}-mini-codec"


def test_people_are_in_the_corpus_when_their_folder_is_given(tmp_path: Path) -> None:
    make_corpus, curate = dry_run("corpus", tmp_path, "HUMAN=people")
    assert after("--human", make_corpus) == "people"
    assert after("--preset", curate) == "mini" and "rate_outlier_mads=20" in curate
    assert "--human" not in dry_run("corpus", tmp_path)[0]


def test_the_other_architecture_trains_beside_the_first_with_its_own_settings(tmp_path: Path) -> None:
    configs = {}
    for arch in ("spectral", "encodec"):
        words = dry_run("codec", tmp_path, f"ARCH={arch}")[-1]
        assert Path(after("--out", words)).name == f"codec-{arch}" and after("--arch", words) == arch
        configs[arch] = resolve("train-codec", after("--preset", words), str(MINI / after("--config", words)),
                                options={"codec.arch": arch})
    spectral, encodec = configs["spectral"], configs["encodec"]
    assert (spectral.training.precision, encodec.training.precision) == ("bf16", "fp32")
    assert encodec.training.learning_rate < spectral.training.learning_rate
    assert spectral.discriminator.filters == encodec.discriminator.filters


def test_the_preset_trains_the_spectral_codec_in_full_precision() -> None:
    config = resolve("train-codec", "mini")
    assert config.codec.arch == "spectral" and config.training.precision == "fp32"


@pytest.mark.parametrize("stage", ["train-codec", "mreq"])
@pytest.mark.parametrize("arch", ["spectral", "encodec"])
def test_every_part_of_the_recipe_starts_before_its_steps_are_over(stage: str, arch: str) -> None:
    config = resolve(stage, "mini", str(MINI / f"{arch}.yaml"))
    first = config.quantizer_start_step if stage == "train-codec" else config.frozen_steps
    assert 0 < first < config.training.steps


@pytest.mark.parametrize("stage", ["train-codec", "mreq"])
@pytest.mark.parametrize("arch", ["spectral", "encodec"])
def test_a_discriminator_has_time_to_warm_up_or_waits_for_longer_training(stage: str, arch: str) -> None:
    config = resolve(stage, "mini", str(MINI / f"{arch}.yaml"))
    start, steps = config.discriminator.start_step, config.training.steps
    assert start == steps or start + config.discriminator.warmup_steps < steps


# ---- slices


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where the recipe runs; the data is there."""
    for name in ("data", "definitions-data"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "checksums.json").touch()
    return tmp_path / "runs"


@pytest.fixture
def fake(tmp_path: Path) -> str:
    """The setting that has make run a stand-in for halle."""
    (tmp_path / "fake.py").write_text(FAKE_HALLE, encoding="utf-8")
    return f"HALLE={sys.executable} {tmp_path / 'fake.py'}"


def slice_for(minutes: str, runs: Path, *settings: str) -> tuple[int, str, str]:
    """Return the exit code of `make slice`, the last line of its results, and what it said beside them."""
    process = make("slice", runs, f"MINUTES={minutes}", f"PYTHON={sys.executable}", *settings)
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.terminate()  # make tells its children
    return process.returncode, output.strip(), errors


def plan_steps(out: Path, steps: int) -> Path:
    """Have the stand-in take so many steps for what is in a folder."""
    out.mkdir(exist_ok=True)
    (out / "steps").write_text(str(steps), encoding="utf-8")
    return out


def finish(runs: Path, *names: str) -> None:
    for name in names:
        (runs / name).mkdir()
        (runs / name / "checksums.json").touch()


def test_a_slice_stops_when_its_time_is_over_and_the_next_goes_on_from_there(runs: Path, fake: str) -> None:
    codec = plan_steps(runs / "codec-spectral", 10_000)
    code, said, _ = slice_for("0.03", runs, fake)  # 1.8 s
    step, _ = list_checkpoints(codec)[-1]
    assert (code, said) == (0, f"slice: codec is at step {step} of 10000; next: codec")
    assert 0 < step < 100  # 50 ms each
    plan_steps(codec, 10_001)
    code, said, _ = slice_for("0.03", runs, fake)
    first, second = (codec / "log").read_text(encoding="utf-8").splitlines()
    assert first == f"0-{step} [1]" and second.startswith(f"{step}-") and second.endswith(" [1]")
    assert said == f"slice: codec is at step {list_checkpoints(codec)[-1][0]} of 10001; next: codec"


def test_the_next_stage_starts_with_the_time_that_is_left(runs: Path, fake: str) -> None:
    mreq = plan_steps(runs / "mreq", 10_000)
    code, said, told = slice_for("0.05", runs, fake)  # 3 s
    assert code == 0
    assert said == (f"slice: codec is at step 2 of 2, finished; mreq is at step {list_checkpoints(mreq)[-1][0]} of "
                    "10000; next: mreq")
    assert [line.split(",")[0] for line in told.splitlines()] == ["slice: codec", "slice: mreq"]


def test_when_all_is_done_it_says_so_and_runs_nothing(runs: Path, fake: str) -> None:
    finish(runs, "codec-spectral", "mreq", "halle-mini-codec", "gate", "tokens", "definitions-tokens", "ar", "nar",
           "valle-mini-codec", "valle-gate", "valle-tokens", "valle-definitions-tokens", "valle-ar")
    code, said, _ = slice_for("1", runs, fake)
    assert (code, said) == (0, "slice: valle-nar is at step 2 of 2, finished; all stages are finished")
    code, said, told = slice_for("1", runs, fake)
    assert (code, said, told) == (0, "slice: nothing to do; all stages are finished", "")


@pytest.mark.parametrize("missing, target", [("data", "corpus"), ("definitions-data", "definitions")])
def test_a_slice_without_its_speech_says_how_to_make_it(runs: Path, fake: str, missing: str, target: str) -> None:
    (runs / missing / "checksums.json").unlink()
    code, _, told = slice_for("1", runs, fake)
    assert code != 0 and f"`{runs / missing}` holds no finished corpus" in told
    assert f"make -C examples/mini {target}\n" in told


def test_the_queue_is_every_training_target_in_order(runs: Path) -> None:
    (words,) = dry_run("slice", runs, "MINUTES=7")
    assert after("--minutes", words) == "7"
    names = [words[index + 1] for index, word in enumerate(words) if word == "--stage"]
    assert names == QUEUE
    for name, command in zip(names, words[words.index("--stage") + 2 :: 3], strict=True):
        assert command.split() == dry_run(name, runs)[-1]


def test_tokens_are_counted_in_shards(runs: Path, fake: str) -> None:
    finish(runs, "codec-spectral", "mreq", "halle-mini-codec", "gate")
    (runs / "tokens").mkdir()
    finish(runs / "tokens", "shard-00000", "shard-00001")
    (runs / "tokens" / "fail").touch()
    code, _, told = slice_for("1", runs, fake)
    assert code != 0 and "tokens failed with exit code 5, at 2 finished shards" in told


def test_the_exit_code_of_a_failure_is_passed_on_and_nothing_more_runs(runs: Path, fake: str) -> None:
    (runs / "codec-spectral").mkdir()
    (runs / "codec-spectral" / "fail").touch()
    command = f"{fake.removeprefix('HALLE=')} train-codec --out {runs / 'codec-spectral'}"
    mreq = f"{fake.removeprefix('HALLE=')} mreq --out {runs / 'mreq'}"
    words = [*SLICE, "--minutes", "1", "--stage", "codec", command, "--stage", "mreq", mreq]
    finished = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False)
    assert finished.returncode == 5 and "codec failed with exit code 5" in finished.stderr
    assert not (runs / "mreq").exists()


@pytest.mark.parametrize("minutes", ["0", "", "-3", "nan", "soon"])
def test_a_slice_of_no_time_is_refused_with_a_hint(minutes: str, runs: Path, fake: str) -> None:
    code, said, told = slice_for(minutes, runs, fake)
    assert code == 2 and said == ""
    assert f"error: expected a number of minutes above 0, got `{minutes}`" in told
    assert "hint: make -C examples/mini slice MINUTES=30" in told
    assert not (runs / "codec-spectral").exists()


def test_a_slice_without_data_says_how_to_make_it(tmp_path: Path, fake: str) -> None:
    code, _, told = slice_for("1", tmp_path / "none", fake)
    assert code == 2 and "hint: make -C examples/mini corpus" in told


def test_a_halle_that_is_not_there_is_named(runs: Path) -> None:
    code, _, told = slice_for("1", runs, "HALLE=no-such-halle")
    assert code == 2 and "error: `no-such-halle` cannot be run" in told and "hint:" in told


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_a_terminals_processes_reaches_halle_once(number: int, runs: Path, fake: str) -> None:
    out = plan_steps(runs / "codec-spectral", 10_000)
    words = [*SLICE, "--minutes", "5", "--stage", "codec", f"{fake.removeprefix('HALLE=')} train-codec --out {out}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               encoding="utf-8", start_new_session=True)
    wait_for((out / "config.json").exists, process)
    os.killpg(process.pid, number)  # as Ctrl-C does
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert (out / "log").read_text(encoding="utf-8").endswith(" [1]\n")  # one SIGTERM and nothing else
    assert said == f"slice: codec is at step {list_checkpoints(out)[-1][0]} of 10000; next: codec\n"


TINY_SPECTRAL = (
    "codec.spectral.channels=8", "codec.spectral.ffn_dim=8", "codec.spectral.latent_dim=16",
    "codec.spectral.encoder_blocks=1", "codec.spectral.decoder_blocks=1",
)  # fmt: skip


def real_stages(runs: Path, codec_steps: int) -> list[str]:
    """Return the words of a slice that trains a tiny codec and two steps of its successor."""

    def command(stage: str, *words: object, overrides: tuple[str, ...]) -> str:
        changes = [word for override in (*TINY_TRAINING, *overrides) for word in ("-O", override)]
        common = ("--data", runs / "data", "--preset", "smoke", "--device", "cpu")
        return shlex.join(map(str, (sys.executable, "-m", "halle_cli", stage, *common, *words, *changes)))

    codec = command("train-codec", "--arch", "spectral", "--out", runs / "codec", "--steps", codec_steps,
                    overrides=(*TINY_CODEC, *TINY_SPECTRAL))
    mreq = command("mreq", "--teacher", runs / "codec", "--out", runs / "mreq", "--steps", 2,
                   overrides=("crop_seconds=0.5",))
    return [*SLICE, "--minutes", "5", "--stage", "codec", codec, "--stage", "mreq", mreq]


def test_real_training_is_stopped_continued_and_followed_by_the_next_stage(tmp_path: Path) -> None:
    make_manifest(tmp_path / "data")
    codec = tmp_path / "codec"
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(real_stages(tmp_path, 100_000), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, encoding="utf-8", env=surroundings)
    wait_for(lambda: list_checkpoints(codec), process)
    process.terminate()
    said, told = process.communicate(timeout=PATIENCE)
    step, checkpoint = list_checkpoints(codec)[-1]
    verify_checksums(checkpoint)
    assert process.returncode == 143 and "everything is saved" in told
    assert said == f"slice: codec is at step {step} of 100000; next: codec\n"

    finished = subprocess.run(real_stages(tmp_path, step + 3), capture_output=True, text=True,
                              encoding="utf-8", env=surroundings, check=False)
    assert finished.returncode == 0, finished.stderr
    assert f"continuing from step {step}" in finished.stderr
    assert finished.stdout.splitlines()[-1] == (
        f"slice: codec is at step {step + 3} of {step + 3}, finished; mreq is at step 2 of 2, finished; "
        "all stages are finished")
    assert read_json(tmp_path / "mreq" / "config.json")["parents"]["teacher"]


def test_every_target_of_the_recipe_can_be_asked_for(tmp_path):
    recipe = (MINI / "mini.mk").read_text(encoding="utf-8").replace("\\\n", "")
    queues = re.findall(r"^QUEUE := ([^$\n]*)", recipe, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", recipe, re.MULTILINE)[1].replace("$(QUEUE)", " ".join(queues))
    given = (MINI / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    assert set(phony.split()) == set(re.search(r"^MINI := (.*)$", given, re.MULTILINE)[1].split())
    last = dry_run("results", tmp_path)[-1]
    timed = [str(tmp_path / "results" / name) for name in ("halle-alone", "valle-alone")]
    assert last[1] == "results.py" and last[last.index("--alone") :][1:3] == timed
    assert timed[1] not in dry_run("results-without-valle", tmp_path)[-1]
    together = {after("--out", words): "batch_size=8" in words for words in dry_run("results", tmp_path)
                if words[:2] == ["halle", "eval"]}
    assert not any(together[out] for out in timed) and sum(together.values()) == len(together) - 2 == 3


def test_both_models_are_packed_with_a_sampling_that_was_tried_and_the_one_that_ships_has_it(tmp_path):
    tune = runpy.run_path(str(MINI / "tune.py"))
    found = {}
    for target in ("halle-model", "valle-model"):
        settings = [value for option, value in pairwise(dry_run(target, tmp_path)[-1]) if option == "--sampling"]
        found[target] = {name: json.loads(value) for name, value in (setting.split("=") for setting in settings)}
        assert tuple(({"mean_temperature": 0.0} | found[target])[name] for name in tune["NAMES"]) in tune["TRIALS"]
    assert found["halle-model"] == read_json(ROOT / "stages" / "pretrained" / "halle-mini" / "model.json")["sampling"]


def test_a_codec_that_ships_is_judged_on_speech_that_is_made_first(tmp_path):
    commands = [words[1] for words in dry_run("gate", tmp_path, "CODECS=shipped")]
    assert commands == ["make_corpus.py", "curate", "gate.py"]


def test_what_ships_is_scored_without_training_it_again(tmp_path):
    def stages(target: str) -> list[str]:
        return [words[1] for words in dry_run(target, tmp_path, "MODELS=shipped") if words[0] == "halle"]

    assert stages("results-without-valle") == ["curate", "eval", "eval"]  # one text at a time for their times, and all
    scored = [after("--model", words) for words in dry_run("results-without-valle", tmp_path, "MODELS=shipped")
              if words[:2] == ["halle", "eval"]]
    trained = dry_run("halle-model", tmp_path)[-1]
    assert set(scored) == {str(tmp_path / "shipped" / "HALL-E-mini")} and after("--out", trained) not in scored
    assert stages("valle-model") == ["curate", "train-codec", "pack", "tokenize", "curate", "tokenize", "train-ar",
                                     "train-nar", "pack"]
