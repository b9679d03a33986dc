"""How a model is loaded, and that settings of how it speaks reach it."""

from __future__ import annotations

import pytest
import torch
from tiny_chain import SPEECH, tiny_config
from torch import nn

from stages import evaluate, pack, synth
from stages.artifacts.storage import read_json, write_json
from stages.errors import StorageError, UsageError
from stages.lm.inference import Int8Linear, PackedLinear, can_pack
from stages.synthesis import pipeline as pipeline_module
from stages.synthesis.model import load_speech_model, with_own_sampling
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import PromptLimits, read_prompt
from stages.synthesis.sources import model_source


def speak(chain, *overrides):
    config = tiny_config("synth", *overrides, model=str(chain.model), max_seconds=0.5)
    pipeline = SpeechPipeline(load_speech_model(config, torch.device("cpu")), config)
    prompt = read_prompt(SPEECH / "prompt.ogg", pipeline.model.codec, PromptLimits())
    return pipeline, pipeline.speak("Good evening.", prompt, 1)


@pytest.mark.parametrize("precision, kind, dtype", [
    ("fp32", PackedLinear, torch.float32),
    ("bf16", PackedLinear, torch.bfloat16),
    ("int8", Int8Linear, torch.float32),
])  # fmt: skip
def test_both_language_models_speak_in_the_precision_asked_for(chain, precision, kind, dtype):
    pipeline, speech = speak(chain, f"precision={precision}")
    for model in (pipeline.model.ar, pipeline.model.nar):
        kinds = {type(module) for module in model.modules()}
        packs = kind is Int8Linear or can_pack(precision)
        assert (kind in kinds) == packs and (nn.Linear in kinds) != packs
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert not any(parameter.is_meta for parameter in model.state_dict().values())
    assert speech.waveform.any()


def test_settings_of_sampling_and_windows_reach_the_models(chain, monkeypatch):
    asked = []
    generate, refine = pipeline_module.generate_batch, pipeline_module.refine
    monkeypatch.setattr(pipeline_module, "generate_batch", lambda *args, **options: asked.append(
        (args[3], options["cuda_graphs"])) or generate(*args, **options))
    monkeypatch.setattr(pipeline_module, "refine", lambda *args: asked.append(args[5]) or refine(*args))
    speak(chain, "sampling.repetition_window=7", "sampling.repetition_ratio=0.25", "cuda_graphs=true")
    (sampling, graphs), windows = asked
    assert (sampling.repetition_window, sampling.repetition_ratio, graphs) == (7, 0.25, True)
    assert (windows.slide_frames, windows.overlap_frames) == (None, 240)  # 5 s at 48 Hz
    speak(chain, "slide_seconds=0.5", "overlap_seconds=1")
    assert (asked[3].slide_frames, asked[3].overlap_frames) == (24, 48)


def packed(chain, out, *sampling):
    pack.run(f"{chain.model}/codec", f"{chain.model}/ar", f"{chain.model}/nar", str(out), sampling=sampling)
    return str(out)


def test_a_model_is_sampled_as_it_was_packed_unless_told_otherwise(chain, tmp_path):
    model = packed(chain, tmp_path / "model", "temperature=0.5", "top_k=40")
    assert read_json(tmp_path / "model" / "model.json")["sampling"] == {"temperature": 0.5, "top_k": 40}
    assert "temperature 0.5, top_k 40" in (tmp_path / "model" / "MODEL_CARD.md").read_text(encoding="utf-8")
    config = tiny_config("synth", "sampling.top_k=9", "max_seconds=0.5", model=model, say="Good evening.",
                         prompt=str(SPEECH / "prompt.ogg"), out=str(tmp_path / "speech.wav"), allow_unfinished=True)
    assert synth.plan(config)["sampling"]["temperature"] == 0.5
    synth.run(config)
    said = read_json(tmp_path / "speech.json")["sampling"]
    assert (said["temperature"], said["top_k"], said["top_p"]) == (0.5, 9, 1.0)
    scored = model_source(tiny_config("eval", "sampling.top_k=9", model=model)).sampling
    assert (scored.temperature, scored.top_k) == (0.5, 9)
    planned = evaluate.plan(tiny_config("eval", "sampling.top_k=9", model=model, set=str(chain.data), split="train",
                                        metrics=["wer"]))["sampling"]
    assert (planned["temperature"], planned["top_k"], planned["top_p"]) == (0.5, 9, 1.0)
    alone = tiny_config("synth", ar=f"{model}/ar", nar=f"{model}/nar", codec=f"{model}/codec")
    assert with_own_sampling(alone, alone.ar).sampling.temperature == 0.5
    whole = tiny_config("synth", ar=model, nar=model, codec=f"{model}/codec")
    assert with_own_sampling(whole, whole.ar).sampling.temperature == 0.5, "the folder stands for its part"
    assert with_own_sampling(tiny_config("synth"), f"{chain.model}/ar").sampling.temperature == 1.0


def test_guidance_is_refused_for_a_model_that_never_did_without_its_text(chain):
    with pytest.raises(UsageError, match="expected guidance 1 for this AR model, got 2"):
        speak(chain, "sampling.guidance=2")


def test_settings_of_sampling_that_cannot_be_are_refused(chain, tmp_path):
    with pytest.raises(UsageError, match="top_p"):
        packed(chain, tmp_path / "model", "top_p=1.5")
    assert not (tmp_path / "model").exists()
    model = packed(chain, tmp_path / "model", "top_p=0.5")
    described = read_json(tmp_path / "model" / "model.json")
    write_json(tmp_path / "model" / "model.json", described | {"sampling": {"heat": 2}})
    with pytest.raises(StorageError, match="heat"):
        with_own_sampling(tiny_config("synth"), f"{model}/ar")
