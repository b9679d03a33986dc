"""`halle check`: whole artifacts pass, and each kind of damage is named, all of it at once."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from kept_artifacts import V1, kept_copy
from safetensors.torch import load_file, save_file

from halle_cli.app import app
from stages import check
from stages.artifacts.kinds import recognise
from stages.artifacts.storage import read_json, write_checksums, write_json, write_jsonl, write_text
from stages.audio.io import write_audio
from stages.errors import StorageError, UsageError

WHOLE = ["manifest", "store", "run", "run@step-2", "run/checkpoints/step-00000002", "model", "model/ar", "codec.pt",
         "evaluation", "evaluation/scores.json", "speech.json", "speech.flac", "text_tokenizer.json", ""]


def problems(path) -> tuple[str, ...]:
    with pytest.raises((StorageError, UsageError)) as caught:
        check.run(str(path))
    return caught.value.problems


def seal(folder) -> None:
    """Make checksums true again, so that only what they cannot see is left."""
    for inner in sorted((file.parent for file in folder.rglob("checksums.json")), key=lambda p: -len(p.parts)):
        write_checksums(inner)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_passes_and_says_what_was_looked_at(name):
    found = check.run(str(V1 / name))
    assert found["problems"] == 0 and sum(found["checked"].values()) > 0


def test_nothing_is_changed_by_checking(tmp_path):
    copy = kept_copy("store", tmp_path)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in copy.rglob("*") if file.is_file()}
    check.run(str(copy))
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in copy.rglob("*") if file.is_file()}


def test_codes_offsets_and_lengths_of_a_store_are_judged_beyond_its_checksums(tmp_path):
    store = kept_copy("store", tmp_path)
    shard = store / "shard-00000"
    codes, offsets = np.load(shard / "quant1.npy"), np.load(shard / "offsets.npy")
    codes[5, 1] = 900
    offsets[1, 2] = 40  # of quant2: beyond the next one
    np.save(shard / "quant1.npy", codes)
    np.save(shard / "offsets.npy", offsets)
    np.save(shard / "text.npy", np.load(shard / "text.npy") + np.uint16(30))
    seal(store)
    said = "\n".join(problems(store))
    assert "quant1.npy`: expected codes below 8, got 900 at most, in 1 rows, the first of which is 5" in said
    assert "column `quant2`: expected offsets that rise, got 40 and then 14" in said
    assert "text.npy`: expected codes below 40" in said
    assert "has 3000 samples, so expected 6 frames of `quant2`, got 40" in said
    assert "its fingerprint is not that of the shards" in said


def test_sums_ids_shards_and_tokenizer_of_a_store_are_compared(tmp_path):
    store = kept_copy("store", tmp_path)
    facts = read_json(store / "store.json")
    write_json(store / "store.json", facts | {"totals": facts["totals"] | {"quant1_frames": 99},
                                              "text_tokenizer_fingerprint": "f" * 64})
    rows = [json.loads(line) for line in (store / "shard-00000/utterances.jsonl").read_text("utf-8").splitlines()]
    rows[1]["id"] = rows[0]["id"]
    write_jsonl(store / "shard-00000/utterances.jsonl", rows)
    shutil.copytree(store / "shard-00000", store / "shard-00007")
    seal(store)
    said = "\n".join(problems(store))
    for expected in ("expected 7 quant1_frames in `totals`, as in the shards, got 99", "`u0` is there 2 times",
                     "shard-00007` is none of the 1 shards", "encoded by tokenizer `ffffffffffff`"):
        assert expected in said


@pytest.mark.parametrize("content, says", [
    (b"not numpy", "is not an array"), (b"", "is not an array"), (None, "is missing"),
])  # fmt: skip
def test_an_array_that_is_none_is_named_and_the_others_are_still_checked(tmp_path, content, says):
    store = kept_copy("store", tmp_path)
    file = store / "shard-00000" / "quant1.npy"
    file.unlink() if content is None else file.write_bytes(content)
    np.save(store / "shard-00000" / "quant2.npy", np.full((14, 2), 77, np.uint16))
    said = "\n".join(problems(store))
    assert f"quant1.npy` {says}" in said and "expected codes below 8, got 77" in said


def test_numbers_that_are_not_finite_and_tensors_that_do_not_fit_are_named(tmp_path):
    run = kept_copy("run", tmp_path)
    file = run / "checkpoints/step-00000002/model.safetensors"
    tensors = load_file(file)
    tensors["heads.0.weight"][0, :3] = float("nan")
    tensors["heads.1.bias"] = torch.zeros(5)
    tensors["surplus"] = torch.zeros(2)
    save_file(tensors, file)
    (run / "metrics.jsonl").write_text('{"step": 3, "loss": 1}\n{"step": 2, "loss": "low"}\n', encoding="utf-8")
    seal(run)
    said = "\n".join(problems(run))
    assert "3 of 72 numbers of `heads.0.weight` are not finite" in said
    assert "expected tensor `surplus` not there, got of shape [2]" in said
    assert "`heads.1.bias`" in said and "its fingerprint is not that of its tensors" in said
    assert "line 2 is of step 2, after one of step 3" in said and "line 2 has no number in loss" in said


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["store", "run", "model", "codec.pt"])
def test_a_flipped_bit_anywhere_is_found_and_exits_with_4(tmp_path, name, seed):
    random, place = np.random.default_rng(seed), kept_copy(name, tmp_path)
    known = sorted(f for f in place.rglob("*.*") if f.is_file() and f.name != "checksums.json")
    files = known if place.is_dir() else [place]
    file = files[random.integers(len(files))]
    content = bytearray(file.read_bytes())
    content[random.integers(len(content) // 2, len(content))] ^= 1 << int(random.integers(8))
    if place.suffix == ".pt":  # a zip file has bytes that say nothing
        content[content.index(b"data/0") + 200] ^= 16
    file.write_bytes(bytes(content))
    with pytest.raises(StorageError) as caught:
        check.run(str(place))
    assert file.name in caught.value.message


def test_parts_of_a_model_that_do_not_belong_together_are_named(tmp_path):
    model = kept_copy("model", tmp_path)
    config = read_json(model / "nar" / "config.json")
    write_json(model / "nar" / "config.json", config | {"parents": config["parents"] | {"codec": "e" * 64}})
    said = read_json(model / "model.json")
    write_json(model / "model.json", said | {"fingerprints": said["fingerprints"] | {"ar": "d" * 64}})
    seal(model)
    told = "\n".join(problems(model))
    assert "the NAR model was trained on tokens of codec `eeeeeeeeeeee`" in told
    assert "expected ar `dddddddddddd`" in told


def test_rows_and_recordings_of_a_manifest_are_compared(tmp_path):
    folder = kept_copy("manifest", tmp_path)
    rows = [{"id": f"u{i}", "audio": "clips/u0.flac", "duration": 0.25, "text": "x"} for i in range(9)]
    rows[1]["audio"], rows[2]["duration"], rows[3]["start"] = "clips/none.flac", 0.75, 0.2
    write_jsonl(folder / "manifest.jsonl", rows)
    write_text(folder / "clips" / "u1.flac", "no sound")
    rows[4]["audio"] = "clips/u1.flac"
    write_jsonl(folder / "manifest.jsonl", rows)
    said = problems(folder)
    assert len(said) == 4
    for expected in ("no such file", "got 0.750 s", "got 0.450 s", "it looks like"):
        assert any(expected in problem for problem in said)


@pytest.mark.skipif(sys.platform == "win32", reason="makes a link")
def test_a_link_out_of_the_folder_is_named(tmp_path):
    folder = kept_copy("manifest", tmp_path)
    (folder / "clips" / "u0.flac").unlink()
    (folder / "clips" / "u0.flac").symlink_to(V1 / "manifest" / "clips" / "u0.flac")
    assert "is a link out of" in "\n".join(problems(folder))


def test_every_bad_row_of_a_manifest_is_named_and_exits_with_2(tmp_path):
    rows = [{"id": f"u{i}", "audio": "../away.wav", "duration": -1, "text": "x"} for i in range(30)]
    write_jsonl(tmp_path / "manifest.jsonl", rows)
    with pytest.raises(UsageError) as caught:
        check.run(str(tmp_path))
    assert len(caught.value.problems) == 30 and "row 30" in caught.value.problems[-1]


def test_curation_must_account_for_every_input(tmp_path):
    folder = kept_copy("manifest", tmp_path)
    write_json(folder / "statistics.json", {"inputs": 5, "accepted": 2, "rejected": 2, "clips": 3})
    write_jsonl(folder / "rejected.jsonl", [{"id": "a"}])
    said = "\n".join(problems(folder))
    assert "5 inputs are not 2 accepted and 2 rejected" in said
    assert "expected 2 clips" in said and "expected 1 rejected" in said


def test_scores_are_added_up_from_the_items_again(tmp_path):
    folder = kept_copy("evaluation", tmp_path)
    scores = read_json(folder / "scores.json")
    scores["systems"]["model"]["scores"]["wer"]["totals"]["deletions"] = 4.0
    scores["systems"]["model"]["counts"] |= {"scored": 2, "failed": 0}
    write_json(folder / "scores.json", scores)
    seal(folder)
    said = "\n".join(problems(folder))
    assert "the deletions of wer of model add up to 5, not to 4" in said and "2 outputs of model are scored" in said
    scores["systems"]["model"]["scores"]["wer"]["denominator"] = 1
    write_json(folder / "scores.json", scores)
    assert "the denominator of wer of model is 1, the items have 2 values" in "\n".join(problems(folder))


def test_speech_must_be_as_long_as_its_report_says(tmp_path):
    report = kept_copy("speech.json", tmp_path)
    write_audio(tmp_path / "speech.flac", np.zeros(2400, np.float32), 24_000)
    write_json(report, read_json(report) | {"captions": ["speech.srt"]})
    said = "\n".join(problems(tmp_path / "speech.flac"))
    assert "expected 0.250 s, as `speech.json` says, got 0.100 s" in said and "speech.srt` is missing" in said


def test_a_folder_of_artifacts_is_checked_one_by_one(tmp_path):
    kept_copy("codec.pt", tmp_path).write_bytes(b"broken")
    (kept_copy("store", tmp_path) / "shard-00000" / "text.npy").unlink()
    kept_copy("text_tokenizer.json", tmp_path)
    said = "\n".join(problems(tmp_path))
    assert "codec.pt` is damaged" in said and "text.npy` is missing" in said


def test_an_unfinished_folder_is_known_by_its_stage_and_has_no_problem(tmp_path):
    run = kept_copy("run", tmp_path)
    (run / "checksums.json").unlink()
    assert recognise(run).complete is False and check.run(str(run))["complete"] is False
    write_json(tmp_path / "begun" / "config.json", {"stage": "tokenize", "config": {}, "parents": {}})
    assert check.run(str(tmp_path / "begun"))["kind"] == "token store"


@pytest.mark.parametrize("content", [None, {}, {"notes.txt": "hello"}])
def test_what_is_nothing_of_ours_is_refused(tmp_path, content):
    place = tmp_path / "place"
    if content is not None:
        place.mkdir()
        for name, text in content.items():
            write_text(place / name, text)
    with pytest.raises(UsageError, match=r"does not exist|expected an artifact of halle"):
        check.run(str(place))


def test_the_command_says_all_problems_in_json_too(tmp_path, capsys):
    (kept_copy("store", tmp_path) / "shard-00000" / "text.npy").unlink()
    with pytest.raises(SystemExit) as end:
        app(["check", str(tmp_path / "store"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert end.value.code == said["exit_code"] == 4 and len(said["problems"]) >= 2
    assert all(problem in said["error"] for problem in said["problems"])
