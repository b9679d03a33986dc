"""What `tokenize` and the trainers say of inputs that cannot be used, and that nothing finished is touched by them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from bad_audio import BAD
from bad_stage_inputs import Case, cases
from tiny_chain import SPEECH, TINY, Chain

from halle_cli.app import app
from stages.artifacts.storage import read_json, read_jsonl
from stages.artifacts.token_store import open_store
from stages.audio.io import SYNTHETIC, write_audio
from stages.codec.registry import load_codec
from stages.errors import HalleError
from stages.synthesis.prompt import PromptLimits, read_prompt

INPUTS = {
    "tokenize": {"codec": "mreq", "data": "data"},
    "train-codec": {"data": "data"},
    "mreq": {"teacher": "codec/encodec.pt", "data": "data"},
    "train-ar": {"tokens": "tokens"},
    "train-nar": {"tokens": "tokens", "codec": "mreq"},
}
FINISHED = {"tokenize": "tokens", "train-codec": "codec", "mreq": "mreq", "train-ar": "ar", "train-nar": "nar"}
# Whatever is broken about these is seen when they are read; other kinds are a matter of taste that curation decides.
UNREADABLE = {"EMPTY_FILE", "NOT_AUDIO", "NO_SAMPLES", "TRUNCATED", "DECODE_SHORT", "DECODE_ERROR", "NON_FINITE",
              "OUT_OF_RANGE", "BAD_RATE", "BAD_CHANNELS", "CODEC_REFUSED"}


@pytest.fixture
def halle(capfd):
    """Run `halle` in this process; return its exit code and what it says. There is never a traceback."""
    logger = logging.getLogger("halle")
    before = logger.handlers, logger.propagate, logger.level

    def command(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            app([str(argument) for argument in arguments])
        said = "".join(capfd.readouterr())
        assert "Traceback" not in said and "bug in halle" not in said, said
        return end.value.code, said

    yield command
    logger.handlers, logger.propagate, logger.level = before


def copied(chain: Chain, inputs: Path) -> Path:
    """Copy what may be spoiled."""
    for name in ("data", "codec", "mreq", "tokens", "ar"):
        shutil.copytree(getattr(chain, name), inputs / name)
    return inputs


def arguments_of(stage: str, inputs: Path, out: Path, given: list[str]) -> list[str]:
    named = {name: str(inputs / path) for name, path in INPUTS[stage].items()} | {"out": str(out)}
    rest = []
    for text in given:
        name, equals, value = text.partition("=")
        if equals and name.isidentifier() and not (rest and rest[-1] == "-O"):
            named[name] = value
        else:
            rest.append(text)
    tiny = [part for override in TINY[stage] for part in ("-O", override)]
    device = [] if "--device" in rest else ["--device", "cpu"]
    return [stage, "--preset", "smoke", *device, *tiny, *(f"--{name}={value}" for name, value in named.items()), *rest]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "log.txt"}


@pytest.mark.parametrize("stage, case", cases(), ids=lambda value: value if isinstance(value, str)
                         else f"{value.number}-{value.name}")
def test_a_bad_input_is_named_and_nothing_is_made(chain, tmp_path, halle, stage: str, case: Case):
    inputs = copied(chain, tmp_path / "inputs")
    code, said = halle(*arguments_of(stage, inputs, tmp_path / "out", case.spoil(inputs) or []))
    message, _, hint = said[said.index("error: "):].partition("\n\nhint: ")
    assert code == case.code and all(part in message for part in case.told) and case.hint in hint, said
    assert "\n" not in message.strip(), "one line"
    assert not (tmp_path / "out" / "checksums.json").exists() and not list((tmp_path / "out").glob("shard-*"))
    assert not list(tmp_path.rglob("canary")), "nothing was run"


@pytest.mark.parametrize("stage", INPUTS)
def test_a_finished_result_is_untouched_by_inputs_that_went_bad(chain, tmp_path, halle, stage):
    finished = shutil.copytree(getattr(chain, FINISHED[stage]), tmp_path / "finished")
    before = contents(finished)
    for place, case in enumerate(case for with_stage, case in cases() if with_stage == stage):
        if place % 4 == 0:
            inputs = copied(chain, tmp_path / f"inputs{place}")
            code, said = halle(*arguments_of(stage, inputs, finished, case.spoil(inputs) or []))
            assert code in (case.code, 2), said
            assert contents(finished) == before, case


def test_a_byte_order_mark_and_crlf_are_no_reason_to_refuse_a_manifest(chain, tmp_path, halle):
    inputs = copied(chain, tmp_path / "inputs")
    file = inputs / "data" / "manifest.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    code, said = halle(*arguments_of("tokenize", inputs, tmp_path / "out", ["--dry-run"]))
    assert code == 0, said


TEXTS = {  # what a text becomes
    "empty": ("   ", "NO_TEXT"),
    "signs": ("...!", "NO_TEXT"),
    "surrogate": ("bad \ud800 text", "BAD_TEXT"),
    "emoji": ("a smile 😀 it is", "UNKNOWN_CHARACTERS"),
    "chinese": ("say 你好 now", "UNKNOWN_CHARACTERS"),
    "control": ("there \0 is \x1b a", None),
}


def test_texts_and_recordings_that_cannot_be_used_are_left_out_with_a_reason_and_all_are_counted(
        chain, tmp_path, halle):
    inputs = copied(chain, tmp_path / "inputs")
    file = inputs / "data" / "manifest.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:4]]
    good, expected = rows[:4], {}
    for name, (text, reason) in TEXTS.items():
        rows.append({**good[0], "id": name, "text": text})
        expected |= {name: reason} if reason else {}
    for bad in [bad for bad in BAD if bad.reason in UNREADABLE and "\n" not in bad.name and bad.name.isascii()]:
        bad.make(inputs / "data" / bad.name)
        rows.append({"id": bad.name, "audio": bad.name, "duration": 3.0, "text": "one two", "speaker": "s"})
        expected[bad.name] = bad.reason
    rows.append({**good[0], "id": "late", "start": 500.0})
    rows.append({**good[0], "id": "gone", "audio": "gone.wav"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = ["--text-tokenizer", str(chain.tokens), "-O", "unknown_characters=skip"]
    code, said = halle(*arguments_of("tokenize", inputs, tmp_path / "out", [*given, "--max-bad", "1"]))
    assert code == 3 and "at most 1 may" in said and "rejected.jsonl" in said, said
    code, said = halle(*arguments_of("tokenize", inputs, tmp_path / "out", [*given, "--max-bad", "100%"]))
    assert code == 0, said
    rejected = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "rejected.jsonl")}
    assert {name: reason for name, reason in rejected.items() if name not in ("late", "gone")} == expected
    assert {"late", "gone"} <= rejected.keys()
    kept = [row["id"] for row in open_store(tmp_path / "out").rows]
    assert sorted([*kept, *rejected]) == sorted(row["id"] for row in rows), "each is kept or rejected"
    assert read_json(tmp_path / "out" / "store.json")["totals"]["utterances"] == len(kept)


@pytest.mark.parametrize("stage", ["train-codec", "mreq"])
def test_a_codec_is_trained_without_the_recordings_that_cannot_be_read(chain, tmp_path, halle, stage):
    inputs = copied(chain, tmp_path / "inputs")
    file = inputs / "data" / "manifest.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()[:6]
    bad = [bad for bad in BAD if bad.reason in UNREADABLE and "\n" not in bad.name and bad.name.isascii()]
    for case in bad:
        case.make(inputs / "data" / case.name)
        lines.append(json.dumps({"id": case.name, "audio": case.name, "duration": 3.0, "text": "x", "speaker": "s"}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, said = halle(*arguments_of(stage, inputs, tmp_path / "out", ["--max-bad", "0"]))
    assert code == 3 and "cannot be read" in said and "raise --max-bad" in said, said
    code, said = halle(*arguments_of(stage, inputs, tmp_path / "out", ["--max-bad", "99%"]))
    assert code == 0 and "left out" in said, said


@pytest.fixture(scope="module")
def codec(chain):
    return load_codec(chain.codec)


NO_PROMPTS = [bad for bad in BAD if bad.reason in UNREADABLE or bad.case in (13, 21, 22, 24)]


@pytest.mark.parametrize("bad", NO_PROMPTS, ids=str)
def test_a_prompt_that_cannot_be_used_is_refused_with_code_2(codec, tmp_path, bad):
    (tmp_path / bad.name).parent.mkdir(parents=True, exist_ok=True)
    bad.make(tmp_path / bad.name)
    with pytest.raises(HalleError) as caught:
        read_prompt(tmp_path / bad.name, codec, PromptLimits(), "one two three")
    assert caught.value.exit_code == 2 and caught.value.message


@pytest.mark.parametrize("text, told", [
    (b"", "is empty after normalisation"),
    (b" \n\t", "is empty after normalisation"),
    (b"caf\xe9", "byte 0xE9 is not UTF-8"),
    ("你好".encode(), "你"),
    (b"word " * 20_000, "split the text"),
])
def test_a_text_that_cannot_be_spoken_is_refused_before_anything_is_written(chain, tmp_path, halle, text, told):
    (tmp_path / "script.txt").write_bytes(text)
    out = tmp_path / "speech.wav"
    write_audio(out, np.full(24_000, 0.1, dtype=np.float32), 24_000, comment=SYNTHETIC)
    before = out.read_bytes()
    code, said = halle("synth", "--preset", "smoke", "--text", tmp_path / "script.txt", "--prompt",
                       SPEECH / "prompt.ogg", "--model", chain.model, "--out", out, "--single-pass", "--device", "cpu")
    assert code == 2 and told in said, said
    assert out.read_bytes() == before, "what was spoken before is as it was"


def test_an_unfinished_checkpoint_is_passed_over_and_said(chain, tmp_path, halle):
    inputs = copied(chain, tmp_path / "inputs")
    newest = sorted((inputs / "mreq" / "checkpoints").iterdir())[-1]
    later = shutil.copytree(newest, newest.with_name("step-00000900"))
    (later / "checksums.json").unlink()
    code, said = halle(*arguments_of("tokenize", inputs, tmp_path / "out", ["--dry-run"]))
    assert code == 0 and f"unfinished checkpoint `step-00000900` ignored; using `{newest.name}`" in said


def test_a_tracker_that_is_not_installed_is_named_with_what_installs_it(chain, tmp_path, halle, monkeypatch):
    monkeypatch.setattr("stages.training.tracking.find_spec", lambda name: None)
    code, said = halle(*arguments_of("train-ar", copied(chain, tmp_path), tmp_path / "out", ["--tracker", "wandb"]))
    assert code == 7 and "pip install 'halle[wandb]'" in said


def test_a_device_out_of_memory_is_no_bug(chain, tmp_path, halle, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    def full(*arguments):
        raise OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr("stages.train_ar.ARTask.train_step", full)
    code, said = halle(*arguments_of("train-ar", copied(chain, tmp_path), tmp_path / "out", []))
    assert code == 4 and "out of memory" in said and "-O training.batch_tokens=" in said
