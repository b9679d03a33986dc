"""Training that starts from a model: what is taken, what is refused, and old data mixed with new."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_tokens
import torch
from safetensors.torch import load_file

from halle_cli.app import app
from stages import pack, train_ar, train_nar
from stages.artifacts.checkpoint import load_checkpoint, resolve_checkpoint
from stages.codec.registry import load_codec
from stages.config.resolve import resolve
from stages.data.token_codec import level_inputs
from stages.data.tokens import open_tokens
from stages.errors import UsageError

SIZES = ("model.transformer.dim=32", "model.transformer.num_heads=2", "model.transformer.num_layers=2",
         "model.transformer.ffn_dim=64")
STEPS = ("training.steps=2", "training.batch_tokens=400", "training.validation_items=2",
         "training.validation_utterances=0")
WINDOWS = ("window_seconds=0.5", "prompt_seconds=0.2")


def from_scratch(stage, out, *overrides, **options):
    sizes = SIZES if stage == "train-ar" else (*SIZES, *WINDOWS)
    return resolve(stage, "smoke", overrides=(*STEPS, *sizes, *overrides),
                   options={"device": "cpu", "out": str(out), **options})  # fmt: skip


def finetune(stage, out, *overrides, **options):
    return resolve(stage, "finetune", overrides=(*STEPS, *overrides),
                   options={"device": "cpu", "out": str(out), **options})  # fmt: skip


def without_dropout(architecture):
    """Take out of a model's description what the preset sets for a training."""
    del architecture["model"]["transformer"]["dropout"]


def weights(run):
    return load_file(resolve_checkpoint(run) / "model.safetensors")


@pytest.fixture(scope="module")
def valle(valle_tokens, tmp_path_factory) -> dict[str, str]:
    """The runs of a VALL-E."""
    root, (store, codec) = tmp_path_factory.mktemp("valle-runs"), map(str, valle_tokens)
    train_ar.run(from_scratch("train-ar", root / "ar", tokens=store))
    train_nar.run(from_scratch("train-nar", root / "nar", tokens=store, codec=codec))
    return {"ar": str(root / "ar"), "nar": str(root / "nar")}


@pytest.fixture(scope="module")
def model(halle_tokens, tmp_path_factory) -> str:
    """The folder of a HALL-E, beside its runs."""
    root, (store, codec) = tmp_path_factory.mktemp("halle-model"), map(str, halle_tokens)
    train_ar.run(from_scratch("train-ar", root / "ar", tokens=store))
    train_nar.run(from_scratch("train-nar", root / "nar", tokens=store, codec=codec))
    pack.run(codec, str(root / "ar"), str(root / "nar"), str(root / "model"))
    return str(root / "model")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> str:
    """A second store that suits the model: the same codec and text tokenizer, other and shorter utterances."""
    return str(tiny_tokens.tiny_tokens(tmp_path_factory.mktemp("own"), "halle", num_utterances=4)[0])


# ---- HALL-E from VALL-E


def test_halle_s_ar_takes_blocks_text_and_the_first_stream_with_its_end_from_valle(halle_tokens, valle, tmp_path):
    config = from_scratch("train-ar", tmp_path / "ar", tokens=str(halle_tokens[0]), init=valle["ar"])
    data = open_tokens(config.tokens, None)
    task = train_ar.ARTask(config, data, load_checkpoint(valle["ar"], "ar"), {})
    ours, theirs = task.model.state_dict(), weights(valle["ar"])
    assert theirs["heads.0.weight"].shape == (16 + 1, 32)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert set(ours) - set(theirs) == {"audio_embeddings.1.weight", "heads.1.weight", "heads.1.bias"}


def test_halle_s_nar_begins_exactly_as_valle_s_blocks_run_without_text(halle_tokens, valle, tmp_path):
    store, codec = map(str, halle_tokens)
    config = from_scratch("train-nar", tmp_path / "nar", tokens=store, codec=codec, init=valle["nar"])
    data, opened = open_tokens(store, None), load_codec(codec).requires_grad_(False)
    init = load_checkpoint(valle["nar"], "nar")
    halle = train_nar.NARTask(config, data, opened, init, {})
    plain = train_nar.NARModel(train_nar.NARConfig.model_validate(init.architecture["model"])).eval()
    plain.load_state_dict(init.tensors)
    batch = halle._make(data.train[:5], 1)
    inputs = level_inputs(batch, opened.hierarchy)
    inputs.pop("targets")
    inputs |= {"lengths": batch.lengths, "prompt_lengths": batch.prompt_lengths}
    assert len(set(batch.prompt_lengths.tolist())) > 1 and len(set(batch.text_lengths.tolist())) > 1
    with torch.no_grad():
        begun = halle.model.eval()(text=batch.text, text_lengths=batch.text_lengths, **inputs)
        without_text = plain(text=batch.text[:, :0], text_lengths=torch.zeros_like(batch.text_lengths), **inputs)
        with_text = plain(text=batch.text, text_lengths=batch.text_lengths, **inputs)
    assert torch.equal(begun, without_text)
    assert not torch.allclose(begun, with_text, atol=1e-3)


def test_the_report_counts_what_was_loaded_new_unused_and_mismatched(halle_tokens, valle, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="halle")
    config = from_scratch("train-ar", tmp_path / "ar", "model.transformer.num_layers=1", "model.transformer.ffn_dim=48",
                          tokens=str(halle_tokens[0]), init=valle["ar"])  # fmt: skip
    report = train_ar.run(config)["init"]
    assert report["mismatched"] == 3  # ffn_in's weight and bias, ffn_out's weight
    assert report["new"] == 3 and report["unused"] == 14 and report["loaded"] > 10
    log = (tmp_path / "ar" / "log.txt").read_text(encoding="utf-8")
    assert "3 mismatched: transformer.blocks.0.ffn_in.weight" in log


def test_a_start_of_which_nothing_fits_is_refused_with_its_width(halle_tokens, valle, tmp_path):
    config = from_scratch("train-ar", tmp_path / "ar", "model.transformer.dim=16", tokens=str(halle_tokens[0]),
                          init=valle["ar"])  # fmt: skip
    with pytest.raises(UsageError, match="expected a model 16 wide, got 32") as caught:
        train_ar.run(config)
    assert "--preset finetune" in caught.value.hint


# ---- another text tokenizer


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> tuple[Path, Path]:
    """A store whose text tokenizer was learned from other texts, and its codec."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_tokens, "TEXTS", ["other words entirely", "were learned here"])
        return tiny_tokens.tiny_tokens(tmp_path_factory.mktemp("foreign"), "halle", num_utterances=6)


@pytest.mark.parametrize("stage", ["train-ar", "train-nar"])
def test_a_start_from_a_model_of_another_text_tokenizer_is_refused(stage, foreign, model, valle, tmp_path):
    kind, module = stage.removeprefix("train-"), {"train-ar": train_ar, "train-nar": train_nar}[stage]
    said = r"reads text tokenizer `[0-9a-f]{12}`, .* are of `[0-9a-f]{12}`"
    for init, option in ((f"{model}/{kind}", "--like"), (valle[kind], "--text-tokenizer")):
        config = from_scratch(stage, tmp_path / "run", tokens=str(foreign[0]), codec=str(foreign[1]), init=init)
        with pytest.raises(UsageError, match=said) as caught:
            module.plan(config)
        assert f"halle tokenize {option} {init}" in caught.value.hint
    assert not (tmp_path / "run").exists()


# ---- fine-tuning


def test_a_model_folder_gives_sizes_windows_and_codec(model, own, tmp_path):
    ar = train_ar.run(finetune("train-ar", tmp_path / "ar", tokens=own, init=model))
    nar = train_nar.run(finetune("train-nar", tmp_path / "nar", tokens=own, init=model))
    for kind, result in (("ar", ar), ("nar", nar)):
        old, new = load_checkpoint(model, kind), load_checkpoint(tmp_path / kind, kind)
        without_dropout(new.architecture), without_dropout(old.architecture)
        assert new.architecture == old.architecture | {"guided": True}  # the longest utterances too
        assert result["init"]["new"] == result["init"]["unused"] == result["init"]["mismatched"] == 0
        assert new.parents["init"] == old.fingerprint
        assert not torch.equal(new.tensors["text_embedding.weight"], old.tensors["text_embedding.weight"])
    assert load_checkpoint(tmp_path / "nar").architecture["window_seconds"] == 0.5
    assert torch.equal(weights(tmp_path / "nar")["input_mean"], weights(f"{model}/nar")["input_mean"])
    packed = pack.run(model, str(tmp_path / "ar"), str(tmp_path / "nar"), str(tmp_path / "mine"))
    assert packed["system"] == "halle"


def test_short_recordings_do_not_shorten_what_a_model_can_say(model, own, tmp_path):
    data, init = open_tokens(own, None), load_checkpoint(model, "ar")
    config = train_ar.keep_architecture(finetune("train-ar", tmp_path / "ar", tokens=own, init=model), "ar")
    minutes = replace(init, architecture={**init.architecture, "max_frames": 720, "max_text_tokens": 1})
    made = train_ar.ARTask(config, data, minutes, {}).identity()[1]
    assert made["max_frames"] == 720 and made["max_text_tokens"] == data.longest("text") > 1
    frames_at_48_hz = replace(minutes, architecture={**minutes.architecture, "stream": "rvq"})
    half_as_long = replace(minutes, architecture={**minutes.architecture, "frame_rate": 4.0})
    for other in (frames_at_48_hz, half_as_long):
        assert train_ar.ARTask(config, data, other, {}).identity()[1]["max_frames"] == data.longest("quant1")


def test_fine_tuning_runs_again_as_a_run_that_is_finished(model, own, tmp_path):
    for _ in range(2):
        result = train_ar.run(finetune("train-ar", tmp_path / "ar", tokens=own, init=model))
    assert result["steps"] == 2
    recorded = json.loads((tmp_path / "ar" / "config.json").read_text(encoding="utf-8"))["config"]
    assert recorded["model.transformer.dim"] == 32 and recorded["keep_architecture"] is True


def test_a_run_goes_on_from_a_model_that_was_moved_but_not_from_another_or_none(model, own, tmp_path):
    train_ar.run(finetune("train-ar", tmp_path / "ar", tokens=own, init=model))
    moved = str(tmp_path / "moved")
    shutil.copytree(model, moved)
    assert train_ar.run(finetune("train-ar", tmp_path / "ar", "training.steps=3", tokens=own, init=moved))["steps"] == 3
    train_ar.run(from_scratch("train-ar", tmp_path / "other", tokens=own))
    for init in (None, str(tmp_path / "other")):
        with pytest.raises(UsageError, match="`init` was"):
            train_ar.plan(from_scratch("train-ar", tmp_path / "ar", tokens=own, init=init))
    with pytest.raises(UsageError, match="`init` was `none`"):
        train_ar.plan(from_scratch("train-ar", tmp_path / "other", tokens=own, init=f"{model}/ar"))


def test_a_dry_run_shows_the_sizes_that_are_kept_and_no_others(model, own, tmp_path, capsys, monkeypatch):
    logger = logging.getLogger("halle")
    for name in ("handlers", "propagate", "level"):  # a console takes them over; this gives them back
        monkeypatch.setattr(logger, name, getattr(logger, name))
    with pytest.raises(SystemExit) as end:
        app(["train-nar", "--preset", "finetune", "--tokens", own, "--init", model, "--out", str(tmp_path / "nar"),
             "--dry-run", "--json"])  # fmt: skip
    shown = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and shown["plan"]["model"]["transformer"]["dim"] == 32
    assert (shown["plan"]["window_seconds"], shown["plan"]["prompt_seconds"]) == (0.5, 0.2)
    assert not {"model", "window_seconds", "prompt_seconds"} & set(shown["settings"])


def test_dropout_is_no_size_and_may_be_set(model, own, tmp_path):
    config = finetune("train-ar", tmp_path / "ar", "model.transformer.dropout=0.3", tokens=own, init=model)
    planned = train_ar.plan(config)["model"]["transformer"]
    assert planned == {"dim": 32, "num_heads": 2, "num_layers": 2, "ffn_dim": 64, "dropout": 0.3}


def test_fine_tuning_without_a_model_or_with_sizes_is_refused(model, own, tmp_path):
    with pytest.raises(UsageError, match="expected the model to fine-tune after --init"):
        train_ar.plan(finetune("train-ar", tmp_path / "ar", tokens=own))
    with pytest.raises(UsageError, match=r"got `model.transformer.dim`, `window_seconds`") as caught:
        train_nar.plan(finetune("train-nar", tmp_path / "nar", "model.transformer.dim=64", "window_seconds=3",
                                tokens=own, init=model))  # fmt: skip
    assert "keep_architecture=false" in caught.value.hint
    with pytest.raises(UsageError, match="which halle train-nar made"):
        train_ar.plan(finetune("train-ar", tmp_path / "ar", tokens=own, init=f"{model}/nar"))


def test_fine_tuning_on_tokens_of_another_codec_is_refused(halle_tokens, model, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(halle_tokens[0], store)
    facts = json.loads((store / "store.json").read_text(encoding="utf-8"))
    facts["codec_fingerprint"] = "another codec"
    (store / "store.json").write_text(json.dumps(facts), encoding="utf-8")
    (store / "checksums.json").write_text('{"files": {}}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"was trained on codec .*, the tokens are of `another code`") as caught:
        train_ar.plan(finetune("train-ar", tmp_path / "ar", tokens=str(store), init=f"{model}/ar"))
    assert f"halle tokenize --like {model}/ar" in caught.value.hint


# ---- old data mixed in


def test_a_run_on_two_stores_goes_on_bit_for_bit_and_records_both(model, own, halle_tokens, tmp_path):
    tokens = (own, f"{halle_tokens[0]}:0.5")

    def run(name, steps):
        return train_ar.run(finetune("train-ar", tmp_path / name, f"training.steps={steps}",
                                     "training.schedule_steps=9", tokens=tokens, init=model))  # fmt: skip

    whole = run("whole", 6)
    run("halves", 3)
    run("halves", 6)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole["tokens"] == f"{own}, {halle_tokens[0]}:0.5" and whole["train_utterances"] == 3 + 9
    parents = load_checkpoint(tmp_path / "whole").parents
    assert parents["tokens.2"] == open_tokens(halle_tokens[0], None).store.parents()["tokens"]
    assert parents["tokens.2.weight"] == "0.5"
    changed = finetune("train-ar", tmp_path / "whole", "training.steps=6", "training.schedule_steps=9",
                       tokens=(own, f"{halle_tokens[0]}:0.25"), init=model)  # fmt: skip
    with pytest.raises(UsageError, match=r"`tokens.2.weight` was `0.5`, is `0.25`"):
        train_ar.run(changed)


def test_a_nar_trains_on_two_stores(model, own, halle_tokens, tmp_path):
    config = finetune("train-nar", tmp_path / "nar", tokens=(own, f"{halle_tokens[0]}:2"), init=model)
    result = train_nar.run(config)
    assert result["steps"] == 2 and result["train_utterances"] == 3 + 9
    assert load_checkpoint(tmp_path / "nar").parents["tokens.2.weight"] == "2"
