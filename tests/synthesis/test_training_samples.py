"""What trainers let a model say: which texts, when, through what, and how it is scored."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_tokens as tiny_tokens_module
import torch
from tiny_tokens import tiny_tokens

from stages import train_nar
from stages.codec.probe import block_contributions
from stages.codec.registry import load_codec
from stages.config.lm_training import LMTrainingConfig
from stages.config.models import ARConfig, BlockConfig, NARConfig, TransformerConfig
from stages.config.sampling import SamplingConfig
from stages.config.stage_configs import SpeechConfig, TrainARConfig, TrainNARConfig
from stages.data.tokens import open_tokens
from stages.errors import UsageError
from stages.lm.ar import ARModel
from stages.lm.generate import Generation
from stages.lm.nar import NARModel, Refinement
from stages.speech.transcriber import Transcript
from stages.synthesis import training_samples
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.training_samples import (
    LOWEST_ALONE,
    TRUE,
    WHOLE,
    ARVoice,
    NARVoice,
    Script,
    Take,
    TrainingSamples,
    choose_scripts,
    find_voice,
    planned_speech,
    streams_of,
    windows_of,
)

SMALL = TransformerConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=32)


class Listener:
    """Hear the text it was told in what is loud, and nothing else."""

    name, version = "listener", "1"

    def __init__(self, text):
        self.text = text

    def transcribe(self, waveform, sample_rate):
        return Transcript(self.text if len(waveform) and np.abs(waveform).max() > 0 else "")


@pytest.fixture(params=["halle", "valle"])
def opened(request, halle_tokens, valle_tokens):
    """A store, its codec, and an untrained AR model for it."""
    store, path = {"halle": halle_tokens, "valle": valle_tokens}[request.param]
    data, codec = open_tokens(store, None), load_codec(path).requires_grad_(False)
    torch.manual_seed(0)
    ar = ARModel(ARConfig(transformer=SMALL, num_codebooks=data.lowest.num_codebooks, codebook_size=16,
                          text_vocab_size=data.tokenizer.vocab_size)).eval()  # fmt: skip
    return data, codec, ar


def with_validation(data, number):
    return replace(data, validation=np.arange(number))


def settings(**changes):
    return LMTrainingConfig(**{"steps": 1000, "validate_every": 100, "transcriber": None, **changes})


def make_script(data):
    return next(script for script in choose_scripts(with_validation(data, 9), 9) if script.prompt is not None)


def test_texts_are_the_first_ones_and_prompts_whole_utterances_of_the_same_speaker(opened):
    data = with_validation(opened[0], 5)  # speakers 0 1 2 0 1
    scripts = choose_scripts(data, 4)
    assert [s.utterance.id for s in scripts] == [f"utterance-{n}" for n in (0, 1, 3, 4)], "2 has nobody to prompt it"
    assert [s.prompt.id for s in scripts] == [f"utterance-{n}" for n in (3, 4, 0, 1)]
    assert choose_scripts(data, 5)[-1].prompt is None
    first = scripts[0]
    tokens = first.text_tokens()
    assert tokens == [*first.prompt.text_tokens[:-1].tolist(), *first.utterance.text_tokens.tolist()]
    assert data.tokenizer.decode(tokens) == f"{first.prompt.text} {first.utterance.text}"


def test_a_text_that_several_read_is_spoken_once(opened):
    scripts = choose_scripts(with_validation(opened[0], 10), 10)  # six texts
    assert [script.utterance.id for script in scripts] == [f"utterance-{n}" for n in range(6)]


def test_minutes_of_speech_are_spoken_only_when_there_is_nothing_shorter(opened, monkeypatch):
    data = with_validation(opened[0], 6)
    durations = sorted(data.store.rows[n]["duration"] for n in range(6))
    monkeypatch.setattr(training_samples, "LONGEST_SECONDS", durations[1])
    chosen = choose_scripts(data, 6)
    assert sorted(script.utterance.duration for script in chosen) == durations[:2]
    assert all(script.prompt is None or script.prompt.duration <= durations[1] for script in chosen)
    monkeypatch.setattr(training_samples, "LONGEST_SECONDS", 0.0)
    assert len(choose_scripts(data, 6)) == 6


@pytest.mark.parametrize("every, expected", [
    (None, [100, 200, 300, 400, 450]), (1, [100, 200, 300, 400, 450]), (150, [200, 300, 450]), (1000, [450]), (0, []),
])
def test_speaking_is_due_at_the_first_validation_after_every_so_many_steps_and_at_the_last(opened, every, expected):
    data, codec, _ = opened
    samples = TrainingSamples(data, codec, settings(steps=450, samples_every=every), "spoken", None)
    assert [step for step in (100, 200, 300, 400, 450) if samples.due(step)] == expected


def test_without_a_nar_the_lowest_stream_alone_is_heard(opened, monkeypatch):
    data, codec, ar = opened
    script = make_script(data)
    true = [streams_of(item, torch.device("cpu")) for item in (script.prompt, script.utterance)]
    codes = torch.cat([streams[data.lowest.name] for streams in true], dim=-1)[0, : data.lowest.num_codebooks]
    given = []

    def write(model, text, prompt, sampling, generator):
        given.append((text.tolist(), prompt, sampling.max_frames))
        return Generation(codes, "end", 1, torch.zeros(1))

    monkeypatch.setattr(training_samples, "generate", write)
    voice = ARVoice(codec)
    take = voice.say(ar, 0, script)
    if data.system == "halle":
        joined = {name: torch.cat([part[name] for part in true], dim=-1) for name in true[0]}
        begins = {**joined, "post1": codec.hierarchy.start(codes[None], true[0]).streams["post1"]}
        first = block_contributions(codec.mrvq, begins)[0]
    else:
        first = codec.quantizer.codebooks[0].codebook[codes[0]].T[None]
    whole = codec.decode_latents(first)[0, 0].clamp(-1, 1).numpy()
    np.testing.assert_allclose(take.waveform, whole[script.prompt.num_samples :], atol=1e-6)
    assert take.ended and voice.what == LOWEST_ALONE
    (text, prompt, max_frames), = given
    assert text == script.text_tokens()
    assert torch.equal(prompt, true[0][data.lowest.name][0, : data.lowest.num_codebooks])
    assert max_frames == pytest.approx(2 * script.utterance.duration * data.lowest.frame_rate, abs=0.5)


class TrueCodes(torch.nn.Module):
    """A NAR model that knows the codes."""

    def __init__(self, codes):
        super().__init__()
        self.codes, self.somewhere, self.texts = codes, torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, feature, levels, text, prompt=None):
        self.texts.append(text[0].tolist())
        return torch.nn.functional.one_hot(self.codes[:, int(levels[0])], 16).float()


def test_a_nar_model_is_heard_behind_the_true_lowest_stream(valle_tokens):
    data, codec = open_tokens(valle_tokens[0], None), load_codec(valle_tokens[1])
    script = make_script(data)
    before, after = (streams_of(item, torch.device("cpu"))["rvq"] for item in (script.prompt, script.utterance))
    nar = TrueCodes(after)
    take = NARVoice(codec, Refinement()).say(nar, script)
    whole = codec.decode({"rvq": torch.cat([before, after], dim=-1)})[0, 0].clamp(-1, 1).numpy()
    np.testing.assert_allclose(take.waveform, whole[script.prompt.num_samples :], atol=1e-6)
    assert take.ended is None and all(text == script.text_tokens() for text in nar.texts)
    alone = NARVoice(codec, Refinement()).say(nar, Script(script.utterance, None))
    assert len(alone.waveform) == script.utterance.num_samples


def test_what_is_said_is_scored_beside_the_true_codes(opened, monkeypatch):
    data, codec, _ = opened
    data = with_validation(data, 4)
    scripts = choose_scripts(data, 2)
    monkeypatch.setattr(training_samples, "load_transcriber", lambda name: Listener(scripts[0].utterance.text))
    takes = iter([Take(np.zeros(scripts[0].utterance.num_samples, np.float32), True), Take(np.zeros(0), False)])
    samples = TrainingSamples(data, codec, settings(validation_utterances=2, transcriber="x"), "spoken",
                              lambda script: next(takes))  # fmt: skip
    measures = samples.speak(100)
    seconds = [script.utterance.duration for script in scripts]
    assert measures["sample.seconds_ratio"] == pytest.approx(seconds[0] / sum(seconds))
    assert measures["sample.ended"] == 0.5
    assert measures["sample.wer"] == 100, "nothing is heard in silence"
    assert 0 < measures["sample.wer_of_codec"] < 100, "of the second text the words of the first are heard"
    assert [(sound.group, sound.name) for sound in samples.sounds] == [
        ("text-1", TRUE), ("text-2", TRUE), ("text-1", "spoken"), ("text-2", "spoken")]  # fmt: skip
    assert samples.sounds[0].caption == f"text: {scripts[0].utterance.text}"
    assert samples.sounds[2].caption == "heard: (nothing)"
    assert "sample.wer_of_lowest" not in measures


def test_a_model_heard_through_the_lowest_stream_alone_is_measured_against_its_true_codes_heard_so(opened, monkeypatch):
    data, codec, _ = opened
    script = choose_scripts(with_validation(data, 4), 1)[0]
    codes = streams_of(script.utterance, torch.device("cpu"))
    lowest = codes[data.lowest.name][:, : data.lowest.num_codebooks]
    heard = []
    monkeypatch.setattr(training_samples, "load_transcriber", lambda name: Listener(script.utterance.text))
    monkeypatch.setattr(training_samples, "decode_lowest", lambda codec, given: heard.append(given) or np.zeros(9))
    samples = TrainingSamples(with_validation(data, 4), codec, settings(validation_utterances=1, transcriber="x"),
                              LOWEST_ALONE, lambda script: Take(np.zeros(10, np.float32)))  # fmt: skip
    assert samples.speak(100)["sample.wer_of_lowest"] == 100 and samples.speak(200)
    assert len(heard) == 1 and torch.equal(heard[0], lowest)


def test_a_validation_that_is_not_due_leaves_no_sounds_and_a_nar_model_has_no_say_in_the_end(opened):
    data, codec, _ = opened
    quiet = Take(np.zeros(10, np.float32))
    samples = TrainingSamples(data, codec, settings(samples_every=200), "refined", lambda script: quiet)
    measures = samples.speak(200)
    assert set(measures) == {"sample.seconds_ratio"} and samples.sounds
    assert samples.speak(300) == {} and samples.sounds == []


def test_the_same_seed_says_the_same_and_random_numbers_of_training_are_left_alone(opened):
    data, codec, ar = opened
    script = make_script(data)
    nar = NARModel(NARConfig(transformer=SMALL, num_levels=2, codebook_size=16, latent_dim=8,
                             text_mode="cross" if data.system == "halle" else "prefix")).eval()  # fmt: skip
    voice = ARVoice(codec, nar)
    before = torch.get_rng_state()
    with torch.inference_mode():
        takes = [voice.say(ar, seed, script) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(takes[0].waveform, takes[1].waveform)
    assert not np.array_equal(takes[0].waveform, takes[2].waveform)


def test_parts_that_do_not_belong_to_the_store_are_refused(halle_tokens, valle_tokens, tmp_path):
    made = {}
    for name, (store, codec) in {"halle": halle_tokens, "valle": valle_tokens}.items():
        made[name] = tmp_path / name
        train_nar.run(TrainNARConfig(
            tokens=str(store), codec=str(codec), out=str(made[name]), device="cpu", window_seconds=0.5,
            model=NARConfig(transformer=SMALL), training=settings(steps=1, batch_tokens=400, samples_every=0)))
    data = open_tokens(halle_tokens[0], None)

    def voice(**parts):
        return find_voice(TrainARConfig(**{name: str(path) for name, path in parts.items()}), data)

    assert voice() is None and voice(codec=halle_tokens[1]).nar is None
    with pytest.raises(UsageError, match="expected a codec beside --nar"):
        voice(nar=made["halle"])
    with pytest.raises(UsageError, match=r"holds tokens of codec `\w{12}`, but"):
        voice(codec=valle_tokens[1])
    with pytest.raises(UsageError, match=r"was trained with codec `\w{12}`, the store `\w{12}`; system `valle`"):
        voice(codec=halle_tokens[1], nar=made["valle"])
    whole = voice(codec=halle_tokens[1], nar=made["halle"])
    assert whole.nar.config.num_levels == 2 and whole.what == WHOLE
    assert whole.windows.window_frames == 24


@pytest.mark.parametrize("seconds", [28.0, None])
def test_a_nar_model_is_heard_through_the_windows_of_synth(opened, seconds):
    codec = opened[1]
    model = SimpleNamespace(codec=codec, window_seconds=seconds, nar_prompt_seconds=3.0)
    sampling = SamplingConfig().over({})
    synth = SpeechPipeline._windows(SimpleNamespace(config=SpeechConfig(), sampling=sampling, model=model))
    assert windows_of(codec, seconds, 3.0) == synth


def test_a_speaker_of_another_store_prompts_nobody_though_the_name_is_the_same(halle_tokens, tmp_path):
    other = tiny_tokens(tmp_path / "other", "halle", num_utterances=8)[0]
    data = open_tokens((str(halle_tokens[0]), str(other)), None)
    data = replace(data, validation=np.array([0, 12, 13, 16]))  # speakers 0 | 0, 1 and 1 of the other store
    assert data.store.rows[0]["speaker"] == data.store.rows[12]["speaker"]
    found = {script.utterance.id: script.prompt and script.prompt.id for script in choose_scripts(data, 9)}
    assert found == {"utterance-1": "utterance-4", "utterance-4": "utterance-1", "utterance-0": None}


@pytest.mark.parametrize("changes", [{"samples_every": 0}, {"validation_utterances": 0}])
def test_a_plan_says_that_nothing_is_spoken_and_needs_no_recogniser_then(changes):
    assert planned_speech(settings(transcriber="nobody", **changes), "spoken") is None
    assert planned_speech(settings(), "spoken") == "spoken"


def test_an_ar_may_end_between_frames_of_other_streams(tmp_path, monkeypatch):
    """At 16, 24 and 48 Hz all streams line up after every second frame of the AR."""
    blocks = [BlockConfig(stride=stride, pre=1, quant=quant, post=1) for stride, quant in ((3, 2), (2, 1))]
    monkeypatch.setattr(tiny_tokens_module, "BLOCKS", (*blocks, BlockConfig(stride=1, pre=1, quant=0, post=0)))
    store, path = tiny_tokens(tmp_path, "halle")
    data, codec = open_tokens(store, None), load_codec(path).requires_grad_(False)
    script = replace(make_script(data), prompt=None)
    written = torch.zeros(data.lowest.num_codebooks, 5, dtype=torch.long)
    monkeypatch.setattr(training_samples, "generate", lambda *_: Generation(written, "end", 5, torch.zeros(1)))
    ar = SimpleNamespace(config=SimpleNamespace(text_pointer=False), parameters=lambda: iter([torch.zeros(1)]))
    nar = NARModel(NARConfig(transformer=SMALL, num_levels=codec.hierarchy.num_levels, codebook_size=16, latent_dim=8,
                             text_mode="cross")).eval()  # fmt: skip
    with torch.inference_mode():
        take = ARVoice(codec, nar).say(ar, 0, script)
    assert len(take.waveform) == 4 * data.lowest.hop_length


def test_where_a_text_is_read_is_known_by_the_utterances_place_in_all_stores(opened):
    data = with_validation(opened[0], 6)
    chosen = choose_scripts(data, 6)
    assert [data.store[script.index].id for script in chosen] == [script.utterance.id for script in chosen]
