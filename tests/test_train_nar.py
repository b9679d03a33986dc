import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_tokens import tiny_codec
from two_processes import check_two_processes

from stages import train_nar
from stages.codec import hierarchy
from stages.codec.registry import export_codec, load_codec
from stages.config.aligner import AlignerConfig
from stages.config.lm_training import LMTrainingConfig
from stages.config.models import NARConfig, TransformerConfig
from stages.config.resolve import resolve
from stages.config.stage_configs import TrainNARConfig
from stages.data.alignments import load_alignments
from stages.data.token_codec import level_inputs
from stages.data.tokens import open_tokens
from stages.errors import DivergedError, MissingModelError, UsageError
from stages.speech.transcriber import Transcript
from stages.synthesis import training_samples
from stages.training.loop import Run

TINY = NARConfig(transformer=TransformerConfig(dim=32, num_heads=2, num_layers=2, ffn_dim=64, dropout=0.1))


def make_config(tokens, out, steps=4, **changes):
    training = {"steps": steps, "learning_rate": 3e-3, "batch_tokens": 400, "validate_every": 1000, "save_every": 5,
                "log_every": 1, "schedule_steps": 10, "transcriber": None}  # fmt: skip
    training.update(changes.pop("training", {}))
    store, codec = tokens
    fields = {"codec": str(codec), "window_seconds": 0.5, "prompt_seconds": 0.2, "model": TINY, **changes}
    return TrainNARConfig(
        tokens=str(store), out=str(out), device="cpu", training=LMTrainingConfig(**training), **fields
    )


def make_task(tokens, config):
    codec = load_codec(tokens[1]).requires_grad_(False)
    return train_nar.NARTask(config, open_tokens(tokens[0], None), codec, None, {})


def weights(result):
    return load_file(Path(result["checkpoint"]) / "model.safetensors")


def logged(out):
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(out):
    return [row["loss"] for row in logged(out) if "loss" in row]


@pytest.mark.parametrize("system", ["halle", "valle"])
def test_training_lowers_the_loss_and_leaves_what_synthesis_needs(system, halle_tokens, valle_tokens, tmp_path):
    tokens = {"halle": halle_tokens, "valle": valle_tokens}[system]
    config = make_config(tokens, tmp_path / "nar", steps=40, training={"save_every": 40, "schedule": "constant"})
    result = train_nar.run(config)
    found = losses(tmp_path / "nar")
    assert sum(found[-8:]) < 0.98 * sum(found[:8])
    described = json.loads((Path(result["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    architecture = described["architecture"]
    assert architecture["model"]["num_levels"] == 2 and architecture["model"]["latent_dim"] == 8
    assert architecture["window_seconds"] == (0.5 if system == "halle" else None)
    assert architecture["model"]["text_mode"] == ("cross" if system == "halle" else "prefix")
    assert {"validation_loss", "validation_accuracy"} <= set(result) and not any("." in key for key in result)
    assert {"validation.loss.level1", "validation.accuracy.level2"} <= set(logged(tmp_path / "nar")[-1])
    stored = weights(result)
    assert not torch.equal(stored["input_mean"], torch.zeros(8)) and (stored["input_std"] > 0).all()


NEEDS_MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=NEEDS_MUON)])
def test_five_and_five_steps_equal_ten_bit_for_bit(halle_tokens, tmp_path, optimizer):
    training = {"optimizer": optimizer}
    whole = train_nar.run(make_config(halle_tokens, tmp_path / "whole", steps=10, training=training))
    train_nar.run(make_config(halle_tokens, tmp_path / "halves", steps=5, training=training))
    halves = train_nar.run(make_config(halle_tokens, tmp_path / "halves", steps=10, training=training))
    first, second = weights(whole), weights(halves)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")


@NEEDS_MUON
@pytest.mark.parametrize("first, then", [("adamw", "muon"), ("muon", "adamw")])
def test_a_run_goes_on_with_its_optimizer_only(halle_tokens, tmp_path, first, then):
    train_nar.run(make_config(halle_tokens, tmp_path / "nar", steps=2, training={"optimizer": first}))
    config = make_config(halle_tokens, tmp_path / "nar", steps=4, training={"optimizer": then},
                         allow_change=("training.optimizer",))  # fmt: skip
    with pytest.raises(UsageError, match="holds averages of other optimizers"):
        train_nar.run(config)


@pytest.mark.parametrize("system", ["halle", "valle"])
def test_heads_start_at_the_codebooks_of_their_levels(system, halle_tokens, valle_tokens, tmp_path):
    tokens = {"halle": halle_tokens, "valle": valle_tokens}[system]
    config = make_config(tokens, tmp_path / "nar", steps=1, codebook_start=True,
                         training={"learning_rate": 1e-9, "schedule": "constant", "warmup_steps": 0})  # fmt: skip
    found, codebooks = weights(train_nar.run(config)), load_codec(tokens[1]).hierarchy.level_codebooks()
    assert len(codebooks) == len(found["head_weight"])
    for codebook, weight, bias in zip(codebooks, found["head_weight"], found["head_bias"], strict=True):
        distances = torch.cdist(codebook, codebook).flatten(), torch.cdist(weight, weight).flatten()
        assert torch.corrcoef(torch.stack(distances))[0, 1] > 0.99 and bias.std() > 0


@pytest.mark.parametrize("system", ["halle", "valle"])
def test_with_a_text_pointer_five_and_five_steps_equal_ten_and_clips_are_read_where_they_are(
    system, halle_tokens, valle_tokens, tmp_path
):  # fmt: skip
    tokens = {"halle": halle_tokens, "valle": valle_tokens}[system]
    pointed = {"model": TINY.model_copy(update={"text_mode": "pointer"}), "aligner": AlignerConfig(steps=3)}
    whole = train_nar.run(make_config(tokens, tmp_path / "whole", steps=10, **pointed))
    train_nar.run(make_config(tokens, tmp_path / "halves", steps=5, **pointed))
    halves = train_nar.run(make_config(tokens, tmp_path / "halves", steps=10, **pointed))
    first, second = weights(whole), weights(halves)
    assert all(torch.equal(first[name], second[name]) for name in first) and "pointer.project.weight" in first
    assert not any("cross_attention" in name for name in first)
    config = make_config(tokens, tmp_path / "whole", steps=10, **pointed)
    data, codec = open_tokens(tokens[0], None), load_codec(tokens[1]).requires_grad_(False)
    found = load_alignments(tmp_path / "whole" / "alignments", config.aligner, data.lowest.frame_rate)
    task = train_nar.NARTask(config, data, codec, None, {}, found)
    batch, rate = task._make(data.train[:4], 3), data.lowest.hop_length // codec.hop_length
    for row, index in enumerate(data.train[:4]):
        length = int(batch.lengths[row])
        every = np.repeat(found.of(int(index)), rate)
        windows = np.lib.stride_tricks.sliding_window_view(every, length)
        assert (windows == batch.places[row, :length].numpy()).all(axis=1).any()


def test_tokens_of_another_codec_are_refused_with_both_fingerprints(halle_tokens, tmp_path):
    export_codec(tiny_codec("halle", seed=5), tmp_path / "other.pt")
    config = make_config((halle_tokens[0], tmp_path / "other.pt"), tmp_path / "nar")
    with pytest.raises(UsageError, match=r"tokens of codec `[0-9a-f]{12}`.*is codec `[0-9a-f]{12}`"):
        train_nar.run(config)
    assert not (tmp_path / "nar").exists()


def test_weights_are_wanted_for_every_level(halle_tokens, tmp_path):
    with pytest.raises(UsageError, match=r"expected \d level_weights, got 9"):
        train_nar.plan(make_config(halle_tokens, tmp_path, level_weights=(1.0,) * 9))


def test_features_and_targets_are_those_of_each_utterances_own_level(halle_tokens, tmp_path):
    task = make_task(halle_tokens, make_config(halle_tokens, tmp_path))
    batch = task._make(task.data.train[:5], 3)
    inputs = level_inputs(batch, task.codec.hierarchy)
    hierarchy = task.codec.hierarchy
    assert len(set(batch.levels)) == 2
    for row, level in enumerate(batch.levels):
        alone = {name: codes[row : row + 1] for name, codes in batch.clips.items()}
        assert torch.equal(inputs["feature"][row], hierarchy.teacher_feature(alone, level)[0])
        assert torch.equal(inputs["targets"][row], batch.clips["quant2"][row, level - 1])
        assert torch.equal(inputs["targets"][row], hierarchy.level_codes(alone, level)[0])
        prompt = {name: codes[row : row + 1] for name, codes in batch.prompts.items()}
        assert torch.equal(inputs["prompt"][row], hierarchy.teacher_feature(prompt, 3)[0])


def test_clips_are_cut_from_what_the_whole_utterance_would_give(halle_tokens, tmp_path):
    """Clipping codes and then embedding them equals embedding the utterance and clipping its feature."""
    task = make_task(halle_tokens, make_config(halle_tokens, tmp_path))
    index = task.data.train[0]
    streams = {n: torch.from_numpy(c.T.astype("int64"))[None] for n, c in task.data.store[index].codes.items()}
    whole = task.codec.hierarchy.teacher_feature(streams, 2)
    cut = {name: codes[..., 4:12] for name, codes in streams.items() if name in ("post1", "quant2")}
    assert torch.equal(task.codec.hierarchy.teacher_feature(cut, 2), whole[..., 4:12])


def test_input_statistics_standardise_the_features(halle_tokens, tmp_path):
    config = make_config(halle_tokens, tmp_path, training={"batch_tokens": 4000})
    task = make_task(halle_tokens, config)
    task.prepare(Run(config))
    batch = task._make(task.data.train, "statistics")
    feature = level_inputs(batch, task.codec.hierarchy)["feature"]
    scaled = (feature.transpose(1, 2) - task.model.input_mean) / task.model.input_std
    rows = torch.cat([scaled[i, : batch.lengths[i]] for i in range(len(scaled))])
    assert rows.mean(0).abs().max() < 0.1 and (rows.std(0) - 1).abs().max() < 0.1


def test_a_start_from_valle_keeps_its_statistics_and_adds_cross_attention_only(
    halle_tokens, valle_tokens, tmp_path, caplog
):
    caplog.set_level(logging.INFO, logger="halle")
    valle = train_nar.run(make_config(valle_tokens, tmp_path / "valle", steps=2))
    config = make_config(halle_tokens, tmp_path / "halle", steps=1, init=str(tmp_path / "valle"))
    halle = train_nar.run(config)
    assert halle["init"]["unused"] == halle["init"]["mismatched"] == 0 and halle["init"]["new"] > 0
    assert torch.equal(weights(halle)["input_mean"], weights(valle)["input_mean"])
    log = (tmp_path / "halle" / "log.txt").read_text(encoding="utf-8")
    new = next(line for line in log.splitlines() if f"{halle['init']['new']} new: " in line).split(" new: ")[1]
    assert all(name.startswith("transformer.blocks.{0,1}.cross_") for name in new.split(", "))


@pytest.mark.parametrize("batch_tokens", [20, 400])
def test_two_processes_give_the_gradient_of_one(halle_tokens, tmp_path, batch_tokens):
    """20 tokens: batches of one utterance, so that one process has nothing to do."""
    config = make_config(halle_tokens, tmp_path, training={"batch_tokens": batch_tokens})
    task = make_task(halle_tokens, config)
    task.model.eval()  # dropout draws by process
    check_two_processes(task, Run(config))


def test_the_codec_is_not_trained(halle_tokens, tmp_path):
    config = make_config(halle_tokens, tmp_path)
    task = make_task(halle_tokens, config)
    run = Run(config)
    before = {name: tensor.clone() for name, tensor in task.codec.state_dict().items()}
    task.train_step(task.batch(1, 0, run), run)
    assert all(parameter.grad is None for parameter in task.codec.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.codec.state_dict().items())


def test_bf16_gives_about_the_losses_of_fp32(halle_tokens, tmp_path):
    train_nar.run(make_config(halle_tokens, tmp_path / "fp32", steps=3))
    train_nar.run(make_config(halle_tokens, tmp_path / "bf16", steps=3, training={"precision": "bf16"}))
    full, half = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert full != half and full == pytest.approx(half, rel=0.02)


def test_the_plan_checks_the_inputs_and_writes_nothing(halle_tokens, tmp_path):
    planned = train_nar.plan(make_config(halle_tokens, tmp_path / "nar"))
    assert planned["system"] == "halle" and planned["model"]["num_levels"] == 2
    assert not (tmp_path / "nar").exists()
    with pytest.raises(UsageError, match="expected the codec"):
        train_nar.plan(make_config((halle_tokens[0], ""), tmp_path / "nar"))


@pytest.mark.parametrize("system", ["halle", "valle"])
def test_validations_refine_the_true_lowest_stream_and_a_recogniser_hears_it(
    system, halle_tokens, valle_tokens, tmp_path, monkeypatch
):
    class Nobody:
        def transcribe(self, waveform, sample_rate):
            return Transcript("")

    monkeypatch.setattr(training_samples, "load_transcriber", lambda name: Nobody())
    tokens = {"halle": halle_tokens, "valle": valle_tokens}[system]
    train_nar.run(make_config(tokens, tmp_path / "nar", steps=1, training={"transcriber": "nobody"}))
    row = logged(tmp_path / "nar")[-1]
    assert {name: value for name, value in row.items() if "sample" in name} == {
        "validation.sample.wer": 100, "validation.sample.wer_of_codec": 100, "validation.sample.seconds_ratio": 1}
    page = (tmp_path / "nar" / "report.html").read_text(encoding="utf-8")
    assert "refined from the true lowest stream, step 1; heard: (nothing)" in page
    assert "true codes, step 1; text: speaker number" in page


def test_tokens_that_the_codec_would_not_refine_to_stop_the_run(halle_tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(hierarchy.MultiResolutionHierarchy, "_expand",
                        lambda self, block, streams, fixed: {**streams, f"post{block}": streams["quant1"][:, :1]
                                                             .repeat_interleave(2, dim=-1)})
    with pytest.raises(DivergedError, match="before the first step, in `refinement`"):
        train_nar.run(make_config(halle_tokens, tmp_path / "nar"))
    assert not (tmp_path / "nar" / "checkpoints").exists()


def test_a_run_at_the_size_of_the_ar_is_a_matter_of_settings(halle_tokens, tmp_path):
    sizes = {f"model.transformer.{name}": value for name, value in TransformerConfig().model_dump().items()}
    config = resolve("train-nar", "paper", options={**sizes, "tokens": str(halle_tokens[0]), "device": "cpu",
                                                    "codec": str(halle_tokens[1]), "out": str(tmp_path / "nar")})
    planned = train_nar.plan(config)
    assert planned["model"]["transformer"] == TransformerConfig().model_dump()
    assert 0.9e9 < planned["parameters"] < 1.2e9, "708 million, and cross-attention a third of it"


def test_a_recogniser_that_there_is_not_is_refused_before_training(halle_tokens, tmp_path):
    config = make_config(halle_tokens, tmp_path / "nar", training={"transcriber": "nobody"})
    for begin in (train_nar.plan, train_nar.run):
        with pytest.raises(MissingModelError, match="`nobody`"):
            begin(config)
