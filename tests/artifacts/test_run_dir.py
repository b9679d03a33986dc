"""Output folders: what a finished one keeps, and what is never moved or overwritten."""

import json

import psutil
import pytest

from stages.artifacts.lock import LOCK, lock_output
from stages.artifacts.run_dir import CONFIG, check_output, claim_output
from stages.artifacts.storage import read_json, verify_checksums, write_text
from stages.config.models import MRVQConfig
from stages.config.stage_configs import MReQConfig, RunConfig
from stages.errors import LockedError, UsageError

STAGE = "train-ar"


def settings(folder, **changes) -> RunConfig:
    return RunConfig(out=str(folder), device="cpu", **changes)


def make_finished(folder, stage=STAGE, **changes):
    with claim_output(stage, settings(folder, **changes), {"data": "f" * 64}) as output:
        write_text(folder / "result.txt", "done")
        output.finish()
    return folder


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "log.txt"}


def test_a_finished_folder_asked_for_again_with_other_running_settings_keeps_every_byte(tmp_path, caplog):
    caplog.set_level("INFO")
    before = contents(make_finished(tmp_path / "run"))
    with claim_output(STAGE, settings(tmp_path / "run", max_bad="3"), {"data": "f" * 64}) as output:
        assert output.complete
    assert contents(tmp_path / "run") == before and "finished: nothing was done" in caplog.text
    verify_checksums(tmp_path / "run")


def test_a_finished_result_keeps_the_identity_that_made_it_even_when_a_change_is_allowed(tmp_path):
    make_finished(tmp_path / "run")
    changed = settings(tmp_path / "run", seed=5, allow_change=("seed",))
    with claim_output(STAGE, changed, {"data": "f" * 64}):
        pass
    assert read_json(tmp_path / "run" / CONFIG)["config"]["seed"] == 0
    verify_checksums(tmp_path / "run")


def test_a_result_that_is_made_anew_records_its_new_settings_and_its_checksums_are_true(tmp_path):
    make_finished(tmp_path / "run")
    with claim_output(STAGE, settings(tmp_path / "run", max_bad="3"), {"data": "f" * 64}) as output:
        output.reopen()
        assert not output.complete
        write_text(tmp_path / "run" / "result.txt", "more")
        output.finish()
    assert read_json(tmp_path / "run" / CONFIG)["config"]["max_bad"] == "3"
    verify_checksums(tmp_path / "run")


def test_restart_does_not_move_a_folder_that_another_process_is_writing(tmp_path):
    make_finished(tmp_path / "run")
    with lock_output(tmp_path / "run"), pytest.raises(LockedError, match=str(psutil.Process().pid)):
        with claim_output(STAGE, settings(tmp_path / "run", restart=True), {}):
            pass
    assert (tmp_path / "run" / "result.txt").exists() and not (tmp_path / "run" / LOCK).exists()


def test_restart_moves_only_results_of_its_own_stage(tmp_path):
    make_finished(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    for folder, stage, message in (("run", "train-nar", "made by `halle train-ar`"), ("mine", STAGE, "no halle stage")):
        with pytest.raises(UsageError, match=message):
            with claim_output(stage, settings(tmp_path / folder, restart=True), {}):
                pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"]


def test_a_dry_run_of_a_restart_is_not_refused_for_the_old_settings(tmp_path):
    make_finished(tmp_path / "run")
    check_output(STAGE, settings(tmp_path / "run", seed=1, restart=True), {})
    with pytest.raises(UsageError, match="`seed` was `0`, is `1`"):
        check_output(STAGE, settings(tmp_path / "run", seed=1), {})


def test_the_hint_names_every_difference_and_an_unknown_one_is_refused(tmp_path):
    make_finished(tmp_path / "run")
    with pytest.raises(UsageError) as caught:
        check_output(STAGE, settings(tmp_path / "run", seed=1), {"data": "e" * 64})
    assert caught.value.hint.endswith("--allow-change seed --allow-change data")
    with pytest.raises(UsageError, match="did you mean `seed`"):
        check_output(STAGE, settings(tmp_path / "run", allow_change=("sed",)), {})


def test_a_stage_whose_result_cannot_be_of_two_settings_is_not_told_to_allow_it(tmp_path):
    make_finished(tmp_path / "run", "tokenize")
    with pytest.raises(UsageError) as caught:
        check_output("tokenize", settings(tmp_path / "run", seed=1), {})
    assert caught.value.hint == "choose another --out, or --restart (the old result is moved aside)"


def test_a_difference_between_blocks_is_shown_without_brackets(tmp_path):
    config = MReQConfig(out=str(tmp_path / "run"))
    with claim_output("mreq", config, {}) as output:
        output.finish()
    blocks = [{"stride": 2, "pre": 1, "quant": 2, "post": 1}, {"stride": 1, "pre": 7, "quant": 0, "post": 0}]
    other = config.model_copy(update={"mrvq": MRVQConfig(blocks=blocks)})
    with pytest.raises(UsageError, match=r"is `stride=2 pre=1 quant=2 post=1, stride=1 pre=7 quant=0 post=0`"):
        check_output("mreq", other, {})


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(UsageError, match="got the file"):
        check_output(STAGE, settings(tmp_path / "run"), {})
