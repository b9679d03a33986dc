import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from two_processes import check_two_processes

from stages import train_ar
from stages.codec.registry import load_codec
from stages.config.aligner import AlignerConfig
from stages.config.lm_training import LMTrainingConfig
from stages.config.models import ARConfig, TransformerConfig
from stages.config.stage_configs import TrainARConfig
from stages.data.tokens import open_tokens
from stages.errors import DivergedError, MissingModelError, UsageError
from stages.lm import training_speed
from stages.lm.ar import ARModel
from stages.text.tokenizer import EOT
from stages.training.loop import Run

TINY = ARConfig(transformer=TransformerConfig(dim=32, num_heads=2, num_layers=2, ffn_dim=64, dropout=0.1))


POINTER = {"model": TINY.model_copy(update={"text_pointer": True}), "aligner": AlignerConfig(steps=3)}


def make_config(tokens, out, steps=4, **changes):
    training = {"steps": steps, "learning_rate": 3e-3, "batch_tokens": 400, "validate_every": 1000, "save_every": 5,
                "log_every": 1, "schedule_steps": 10, "transcriber": None}  # fmt: skip
    training.update(changes.pop("training", {}))
    return TrainARConfig(
        tokens=str(tokens), out=str(out), device="cpu", training=LMTrainingConfig(**training),
        **{"model": TINY, **changes},
    )


def weights(result):
    return load_file(Path(result["checkpoint"]) / "model.safetensors")


def logged(out):
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(out):
    return [row["loss"] for row in logged(out) if "loss" in row]


def test_training_lowers_the_loss_and_leaves_what_synthesis_needs(halle_tokens, tmp_path):
    result = train_ar.run(make_config(halle_tokens[0], tmp_path / "ar", steps=30, training={"save_every": 30}))
    found = losses(tmp_path / "ar")
    assert sum(found[-5:]) < 0.95 * sum(found[:5])
    described = json.loads((Path(result["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    data = open_tokens(halle_tokens[0], None)
    assert described["architecture"]["system"] == "halle"
    assert described["architecture"]["model"]["num_codebooks"] == 2
    assert described["architecture"]["model"]["codebook_size"] == 16
    assert described["architecture"]["max_frames"] == max(len(data.store[i].codes["quant1"]) for i in data.train)
    assert described["parents"]["codec"] == data.store.codec_fingerprint
    assert {"validation_loss", "validation_accuracy"} <= set(result) and not any("." in key for key in result)
    assert {"validation.loss.codebook2", "validation.accuracy.codebook1"} <= set(logged(tmp_path / "ar")[-1])


def test_five_and_five_steps_equal_ten_bit_for_bit_and_fifteen_go_on(halle_tokens, tmp_path):
    whole = train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=10))
    train_ar.run(make_config(halle_tokens[0], tmp_path / "halves", steps=5))
    halves = train_ar.run(make_config(halle_tokens[0], tmp_path / "halves", steps=10))
    first, second = weights(whole), weights(halves)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    again = train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=10))
    assert again["steps"] == 10 and len(losses(tmp_path / "whole")) == 10
    assert train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=15))["steps"] == 15


@pytest.mark.parametrize("system, prefix", [("halle", True), ("halle", False), ("valle", False)])
def test_with_a_text_pointer_five_and_five_steps_equal_ten_too(system, prefix, halle_tokens, valle_tokens, tmp_path):
    store, codec = halle_tokens if system == "halle" else valle_tokens
    model = POINTER["model"].model_copy(update={"text_prefix": prefix})
    with_pointer = {"codec": str(codec), **POINTER, "model": model, "training": {"validation_utterances": 2}}
    whole = train_ar.run(make_config(store, tmp_path / "whole", steps=10, **with_pointer))
    train_ar.run(make_config(store, tmp_path / "halves", steps=5, **with_pointer))
    halves = train_ar.run(make_config(store, tmp_path / "halves", steps=10, **with_pointer))
    first, second = weights(whole), weights(halves)
    assert all(torch.equal(first[name], second[name]) for name in first) and "pointer.project.weight" in first
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    last = logged(tmp_path / "whole")[-1]
    assert {"validation.loss.pointer", "validation.loss.codebook1", "validation.sample.ended"} <= set(last)
    assert ("validation.loss.codebook2" in last) == (system == "halle")


def test_a_model_without_a_text_pointer_does_not_start_one_with(valle_tokens, tmp_path):
    train_ar.run(make_config(valle_tokens[0], tmp_path / "plain", steps=1))
    config = make_config(valle_tokens[0], tmp_path / "ar", codec=str(valle_tokens[1]), init=str(tmp_path / "plain"),
                         **POINTER)  # fmt: skip
    with pytest.raises(UsageError, match="expected a model with a text pointer") as caught:
        train_ar.run(config)
    assert caught.value.hint == "set -O model.text_pointer=false -O model.text_prefix=true"


def test_a_text_pointer_needs_the_codec_for_its_aligner(halle_tokens, tmp_path):
    for begin in (train_ar.run, train_ar.plan):
        with pytest.raises(UsageError, match="expected the codec of the tokens for the aligner of a text pointer"):
            begin(make_config(halle_tokens[0], tmp_path / "ar", **POINTER))
    assert not (tmp_path / "ar").exists()


def test_codes_start_at_the_codec_s_codebooks_and_their_frequencies(halle_tokens, tmp_path):
    store, codec = halle_tokens
    config = make_config(store, tmp_path / "ar", steps=1, codec=str(codec), codebook_start=True,
                         training={"learning_rate": 1e-9, "schedule": "constant", "warmup_steps": 0})  # fmt: skip
    found, hierarchy = weights(train_ar.run(config)), load_codec(codec).hierarchy
    data = open_tokens(store, None)
    codes = np.concatenate([data.store[int(index)].codes["quant1"] for index in data.train])
    for stream, codebook in enumerate(hierarchy.lowest_codebooks()):
        table, bias = found[f"audio_embeddings.{stream}.weight"], found[f"heads.{stream}.bias"]
        size = len(codebook)
        distances = torch.cdist(codebook, codebook).flatten(), torch.cdist(table[:size], table[:size]).flatten()
        assert torch.corrcoef(torch.stack(distances))[0, 1] > 0.99
        counts = np.bincount(codes[:, stream], minlength=size) + 1
        torch.testing.assert_close(bias[:size].exp(), torch.tensor(counts / counts.mean()).float())
    with pytest.raises(UsageError, match="expected the codec of the tokens for its codebooks to start at"):
        train_ar.run(make_config(store, tmp_path / "none", codebook_start=True))


def test_halle_starts_from_valle_and_reports_what_is_new(halle_tokens, valle_tokens, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="halle")
    valle = train_ar.run(make_config(valle_tokens[0], tmp_path / "valle", steps=2))
    assert valle["system"] == "valle"
    config = make_config(halle_tokens[0], tmp_path / "halle", steps=1, init=str(tmp_path / "valle"))
    halle = train_ar.run(config)
    assert halle["init"]["new"] == 3  # table, and weight and bias of the head, of stream 2
    assert halle["init"]["unused"] == halle["init"]["mismatched"] == 0
    log = (tmp_path / "halle" / "log.txt").read_text(encoding="utf-8")
    assert "3 new: audio_embeddings.1.weight, heads.1.weight, heads.1.bias" in log


@pytest.mark.parametrize("batch_tokens", [20, 400])
def test_two_processes_give_the_gradient_of_one(halle_tokens, tmp_path, batch_tokens):
    """20 tokens: batches of one utterance, so that one process has nothing to do."""
    config = make_config(halle_tokens[0], tmp_path, training={"batch_tokens": batch_tokens})
    data = open_tokens(halle_tokens[0], None)
    task = train_ar.ARTask(config, data, None, {})
    task.model.eval()  # dropout draws by process
    check_two_processes(task, Run(config))


def head_gradients(tokens, out, stream_weights):
    """Return the norms [streams] of the gradients that one batch gives the heads."""
    config = make_config(tokens[0], out, stream_weights=stream_weights)
    task = train_ar.ARTask(config, open_tokens(tokens[0], None), None, {})
    task.model.eval()
    run = Run(config)
    task.train_step(task.batch(1, 0, run), run)
    return torch.stack([head.weight.grad.norm() for head in task.model.heads])


def test_streams_count_as_much_as_their_weights_say(halle_tokens, tmp_path):
    alike = head_gradients(halle_tokens, tmp_path, None)
    count = len(alike)
    weighted = head_gradients(halle_tokens, tmp_path, (3.0,) + (1.0,) * (count - 1))
    share = count / (count + 2)  # weights are relative: their mean is 1
    assert torch.allclose(weighted / alike, torch.tensor([3.0] + [1.0] * (count - 1)) * share, rtol=1e-4)
    with pytest.raises(UsageError, match=f"expected {count} stream_weights, got 1"):
        train_ar.plan(make_config(halle_tokens[0], tmp_path, stream_weights=(1.0,)))


def test_texts_are_hidden_as_often_as_asked_for_and_the_model_says_so(halle_tokens, tmp_path):
    config = make_config(halle_tokens[0], tmp_path, no_text_probability=0.3)
    task = train_ar.ARTask(config, open_tokens(halle_tokens[0], None), None, {})
    run = Run(config)
    batches = [task.batch(step, 0, run)[0] for step in range(1, 60)]
    lengths = torch.cat([batch.text_lengths for batch in batches])
    assert 0.2 < (lengths == 1).float().mean() < 0.4
    for batch in batches:
        ends = batch.text.gather(1, batch.text_lengths.unsqueeze(1) - 1)
        assert (ends == EOT).all() and not batch.text[batch.text_lengths == 1, 1:].any()
    assert task.identity()[1]["guided"]
    whole = train_ar.ARTask(make_config(halle_tokens[0], tmp_path), task.data, None, {})
    assert (torch.cat([whole.batch(step, 0, run)[0].text_lengths for step in range(1, 9)]) > 1).all()
    assert not whole.identity()[1]["guided"]


def test_bf16_gives_about_the_losses_of_fp32(halle_tokens, tmp_path):
    train_ar.run(make_config(halle_tokens[0], tmp_path / "fp32", steps=3))
    train_ar.run(make_config(halle_tokens[0], tmp_path / "bf16", steps=3, training={"precision": "bf16"}))
    full, half = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert full != half and full == pytest.approx(half, rel=0.02)


def test_the_plan_checks_the_inputs_and_writes_nothing(halle_tokens, tmp_path):
    planned = train_ar.plan(make_config(halle_tokens[0], tmp_path / "ar"))
    assert planned["system"] == "halle" and planned["train_utterances"] == 9 and planned["parameters"] > 0
    assert not (tmp_path / "ar").exists()
    with pytest.raises(UsageError, match="expected a finished token store"):
        train_ar.plan(make_config(tmp_path / "nothing", tmp_path / "ar"))
    with pytest.raises(UsageError, match="expected a run or checkpoint folder"):
        train_ar.plan(make_config(halle_tokens[0], tmp_path / "ar", init=str(tmp_path / "nothing")))


def speaking(tokens, out, **changes):
    training = {"validation_utterances": 2, **changes.pop("training", {})}
    return make_config(tokens[0], out, steps=2, codec=str(tokens[1]), training=training, **changes)


def test_validations_speak_and_say_through_what_without_disturbing_the_training(halle_tokens, tmp_path):
    silent = train_ar.run(make_config(halle_tokens[0], tmp_path / "silent", steps=2, training={"validate_every": 1}))
    config = speaking(halle_tokens, tmp_path / "ar", training={"validate_every": 1, "samples_every": 2})
    spoken = train_ar.run(config)
    first, second = weights(silent), weights(spoken)
    assert all(torch.equal(first[name], second[name]) for name in first)
    validations = [row for row in logged(tmp_path / "ar") if "validation.loss" in row]
    measured = {name for name in validations[-1] if name.startswith("validation.sample.")}
    assert measured == {"validation.sample.ended", "validation.sample.seconds_ratio"}
    assert not any("sample" in name for name in validations[0]), "only every second step"
    assert 0 < validations[-1]["validation.sample.seconds_ratio"] <= 2.1
    sounds = sorted(path.relative_to(tmp_path / "ar" / "samples").as_posix()
                    for path in (tmp_path / "ar" / "samples").rglob("*.flac"))
    assert sounds == [f"step-00000002/text-{number}/{name}.flac" for number in (1, 2)
                      for name in ("spoken, lowest stream alone", "true codes")]  # fmt: skip
    page = (tmp_path / "ar" / "report.html").read_text(encoding="utf-8")
    assert "spoken, lowest stream alone, step 2" in page and "sample: ended, validation" in page
    again = make_config(halle_tokens[0], tmp_path / "ar", steps=3)
    assert train_ar.run(again)["steps"] == 3, "a run goes on without speaking"


def test_a_wrong_codec_is_refused_before_anything_is_written(halle_tokens, valle_tokens, tmp_path):
    for begin in (train_ar.run, train_ar.plan):
        with pytest.raises(UsageError, match="holds tokens of codec"):
            begin(speaking((halle_tokens[0], valle_tokens[1]), tmp_path / "ar"))
    assert not (tmp_path / "ar").exists()
    planned = train_ar.plan(speaking(halle_tokens, tmp_path / "ar"))
    assert planned["speech_at_validations"] == "spoken, lowest stream alone"
    silent = speaking(halle_tokens, tmp_path / "ar", training={"samples_every": 0, "transcriber": "nobody"})
    assert train_ar.plan(silent)["speech_at_validations"] is None


def test_a_model_that_would_not_speak_as_it_is_trained_is_not_trained(halle_tokens, tmp_path, monkeypatch):
    right = ARModel._embed_audio
    monkeypatch.setattr(ARModel, "_embed_audio", lambda self, late, first: right(self, late, 2 * first))
    with pytest.raises(DivergedError, match="before the first step, in `cached`"):
        train_ar.run(make_config(halle_tokens[0], tmp_path / "ar"))
    assert not (tmp_path / "ar" / "checkpoints").exists()


def test_the_gate_reads_the_model_that_training_starts_from(halle_tokens, valle_tokens, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="halle")
    train_ar.run(make_config(valle_tokens[0], tmp_path / "valle", steps=1))
    train_ar.run(make_config(halle_tokens[0], tmp_path / "halle", steps=1, init=str(tmp_path / "valle")))
    log = (tmp_path / "halle" / "log.txt").read_text(encoding="utf-8")
    assert log.index("new: audio_embeddings.1.weight") < log.index("generation computes what training does")


def test_a_run_may_go_on_compiled_and_its_checkpoints_keep_their_names(halle_tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(training_speed, "BACKEND", "eager")  # what dynamo makes of a block, without a C compiler
    whole = train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=4))
    for steps, compiled in ((1, False), (3, True), (4, False)):
        config = make_config(halle_tokens[0], tmp_path / "parts", steps=steps, training={"compile": compiled})
        parts = train_ar.run(config)
    first, second = weights(whole), weights(parts)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_checkpointed_steps_are_the_same_and_a_run_may_change_to_them(halle_tokens, tmp_path):
    whole = train_ar.run(make_config(halle_tokens[0], tmp_path / "whole", steps=6))
    train_ar.run(make_config(halle_tokens[0], tmp_path / "parts", steps=3))
    config = make_config(halle_tokens[0], tmp_path / "parts", steps=6, training={"checkpoint_activations": True})
    first, second = weights(whole), weights(train_ar.run(config))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_compiler_that_there_is_not_is_missed_by_the_plan_too(halle_tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(training_speed, "BACKEND", "none-of-this-name")
    config = make_config(halle_tokens[0], tmp_path / "ar", training={"compile": True})
    for begin in (train_ar.plan, train_ar.run):
        with pytest.raises(MissingModelError, match=r"`training.compile` does not work"):
            begin(config)


def test_a_recogniser_that_there_is_not_is_refused_before_training(halle_tokens, tmp_path):
    config = speaking(halle_tokens, tmp_path / "ar", training={"transcriber": "nobody"})
    for begin in (train_ar.plan, train_ar.run):
        with pytest.raises(MissingModelError, match="`nobody`"):
            begin(config)
