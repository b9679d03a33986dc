"""Speech of an AR model with a text pointer: what goes on from a prompt, and what is handed on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_voice import LONG, SENTENCES, TEXTS, TINY, tiny_model, tiny_pipeline, tiny_prompt

from stages.artifacts.checkpoint import Checkpoint
from stages.config.models import ARConfig
from stages.errors import UsageError
from stages.lm.ar import ARModel
from stages.lm.generate import Generation
from stages.lm.nar import NARModel, refine
from stages.synthesis import pipeline as pipeline_module
from stages.synthesis.captions import time_sentences, to_srt
from stages.synthesis.model import check_belonging
from stages.synthesis.pointed import word_frames


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    ar = ARModel(ARConfig(transformer=TINY, num_codebooks=2, codebook_size=16, text_vocab_size=60, text_pointer=True))
    return replace(tiny_model(), ar=ar.eval())


def takes_of(model, text, prompt, **settings):
    takes = []
    pipeline = tiny_pipeline(model, lambda _, take: takes.append(take) or take, max_seconds=4.0, **settings)
    return pipeline, pipeline.speak(text, prompt, seed=1), takes


def test_the_prompt_s_text_is_read_over_the_prompt_and_codes_are_the_codec_s_alone(model):
    prompt = tiny_prompt(model)
    pipeline, speech, (take, *_) = takes_of(model, SENTENCES[0], prompt)
    frames = take.request.prefix_codes.shape[-1]
    assert frames > 0 and int(take.advances[0, :frames].sum()) == pipeline.count(TEXTS[0]) - 1
    assert take.codes.shape[0] == speech.codes.shape[0] == 2 and take.advances.shape == (1, take.codes.shape[1])
    assert torch.equal(take.codes[:, :frames], prompt.streams["quant1"][0])


def test_a_prompt_that_says_the_beginning_of_the_text_is_read_in_proportion(model):
    _, _, (take, *_) = takes_of(model, SENTENCES[0], tiny_prompt(model, text=""), single_pass=True)
    request, frames = take.request, take.request.prefix_codes.shape[-1]
    share = frames / (frames + request.expected_frames)
    assert int(take.advances[0, :frames].sum()) == round(share * request.own_tokens) - 1


def test_what_is_spoken_again_keeps_its_codes_and_where_they_are_read(model):
    pipeline, _, (take, *_) = takes_of(model, LONG, tiny_prompt(model))
    frame = (take.request.prefix_codes.shape[-1] + take.codes.shape[-1]) // 2
    again = pipeline.continue_from(take, frame, seed=9)
    assert torch.equal(again.codes[:, :frame], take.codes[:, :frame])
    assert torch.equal(again.advances[:, :frame], take.advances[:, :frame])
    assert not torch.equal(again.codes[:, frame : frame + 20], take.codes[:, frame : frame + 20])


def test_each_word_begins_with_the_frame_in_which_its_first_token_is_read(model):
    pipeline, speech, (take, *_) = takes_of(model, "Behind the garden is the old school.", tiny_prompt(model))
    prefix, words = take.request.prefix_codes.shape[-1], take.request.text.split()
    advances = torch.tensor([0, 1, 0, 2, 9, 0, 0, 3, 0, 1, 0, 0, 0, 4, 1, 0, 1, 0, 0, 2])
    said = replace(take, advances=torch.cat([take.advances[:, :prefix], advances[None]], dim=1))
    tokens = [pipeline.count(word) for word in words]
    frames = word_frames(said, tokens).tolist()
    reached = (advances.cumsum(0) - 1).tolist()  # from the prompt's last token on
    for frame, first in zip(frames[:-1], np.cumsum([0, *tokens[:-1]]), strict=True):
        assert reached[frame - 1] < first and (frame == len(reached) or reached[frame] >= first)
    assert frames[0] == 1 and len(frames) == len(words) + 1
    assert word_frames(replace(take, advances=None), tokens) is None
    assert len(speech.pieces[0].word_times) == len(words) + 1


def test_words_lie_in_order_within_their_pass(model):
    _, speech, takes = takes_of(model, LONG, tiny_prompt(model))
    assert len(takes) > 1
    for piece in speech.pieces:
        times = [piece.start, *piece.word_times, piece.end]
        assert times == sorted(times) and len(piece.word_times) == len(piece.piece.text.split()) + 1


def say_slowly(monkeypatch, frames_per_token):
    """Let the AR read a token every so many frames, until its text is read or time is up."""
    def generate(ar, texts, prompts, sampling, generators, on_step=None, **options):
        return [one(text, prompt, sampling.max_frames, generator)
                for text, prompt, generator in zip(texts, prompts, generators, strict=True)]

    def one(text, prompt, max_frames, generator):
        needed = frames_per_token * (len(text) - 1 - int(prompt[0].sum()))
        written = min(needed, max_frames)
        advances = (torch.arange(1, written + 1) % frames_per_token == 0).long()[None]
        codes = torch.cat([advances, torch.randint(8, 16, (2, written), generator=generator)])
        return Generation(torch.cat([prompt, codes], dim=1), "end" if written == needed else "max_frames", written,
                          codes.float())

    monkeypatch.setattr(pipeline_module, "generate_batch", generate)


CLAUSES = "Number one is the old garden, and it is behind the school, and it is number two of the old garden."


def test_what_time_was_up_for_is_spoken_in_another_pass_from_a_clause_on(model, monkeypatch):
    takes, told = [], []
    pipeline = tiny_pipeline(model, lambda _, take: takes.append(take) or take)
    say_slowly(monkeypatch, 1 + model.max_frames // pipeline.count(CLAUSES))
    speech = pipeline.speak(CLAUSES, tiny_prompt(model), seed=1, advance=lambda count, note: told.append(count))
    first, second = speech.report["pieces"]
    assert first["text"].endswith(",") and f"{first['text']} {second['text']}" == CLAUSES
    assert (first["stop_reason"], second["stop_reason"], speech.stop_reason) == ("cut", "end", "end")
    assert first["within_a_sentence"] and not second["within_a_sentence"] and not speech.report["not_spoken"]
    assert second["carried"]["text"] in first["text"] and second["carried"]["text"].endswith(",")
    assert sum(told) == pipeline.size_of(CLAUSES)
    begin, kept = takes[0].request.prefix_codes.shape[-1], first["frames"]
    assert kept < takes[0].num_frames == model.max_frames
    read = int(takes[0].advances[0, begin : begin + kept].sum())  # from the prompt's last token on
    assert read == pipeline.count(first["text"])  # the next word's first token is due in the frame after
    assert len(speech.generated) == sum(piece["frames"] for piece in (first, second)) * 1000


@pytest.mark.parametrize("settings, frames_per_token", [
    ({"single_pass": True}, 6), ({"max_seconds": 7.0}, 5), ({}, 12)])
def test_a_limit_that_was_asked_for_and_a_pass_that_came_less_than_halfway_leave_it_unfinished(
        model, monkeypatch, settings, frames_per_token):
    pipeline = tiny_pipeline(model, **settings)
    say_slowly(monkeypatch, frames_per_token)
    speech = pipeline.speak(CLAUSES, tiny_prompt(model), seed=1)
    assert speech.stop_reason == "max_frames" and speech.report["passes"] == 1
    (piece,), (rest,) = speech.report["pieces"], speech.report["not_spoken"]
    assert f"{piece['text']} {rest}" == CLAUSES
    captions = to_srt(time_sentences(speech, None))
    assert piece["text"].split()[-1] in captions and rest not in " ".join(captions.split())
    times, second = speech.pieces[0].word_times, pipeline.count(CLAUSES.split(maxsplit=1)[0])
    assert times[1] == pytest.approx((frames_per_token * (second + 1) - 0.5) / 24) and times[-1] <= speech.seconds


def test_a_limit_beyond_what_was_trained_holds_for_all_passes_and_not_for_each(model, monkeypatch):
    takes = []
    pipeline = tiny_pipeline(model, lambda _, take: takes.append(take) or take, max_seconds=60.0)
    say_slowly(monkeypatch, 1 + model.max_frames // pipeline.count(CLAUSES))
    speech = pipeline.speak(CLAUSES, tiny_prompt(model), seed=1)
    assert [piece["stop_reason"] for piece in speech.report["pieces"]] == ["cut", "end"]
    assert takes[0].num_frames == model.max_frames
    assert [take.stop_reason for take in takes] == ["max_frames", "cut", "end"]  # what was cut is judged again


def test_a_nar_model_with_a_pointer_reads_where_the_ar_model_has_read(model, monkeypatch):
    torch.manual_seed(0)
    nar = NARModel(model.nar.config.model_copy(update={"text_mode": "pointer"})).eval()
    shown = []
    monkeypatch.setattr(pipeline_module, "refine", lambda *args: shown.append(args[7]) or refine(*args))
    _, _, (take, *_) = takes_of(replace(model, nar=nar), SENTENCES[0], tiny_prompt(model))
    assert shown[0].shape == (1, take.codes.shape[1])
    assert torch.equal(shown[0], take.advances.cumsum(1).clamp(max=len(take.request.tokens) - 1))


def test_a_nar_model_with_a_pointer_is_refused_beside_an_ar_model_without(model):
    parents = {"codec": "c", "text_tokenizer": "t"}
    ar = Checkpoint(None, "ar", {"system": "halle", "model": {}}, {}, parents, "a")
    nar = Checkpoint(None, "nar", {"system": "halle", "model": {"text_mode": "pointer"}}, {}, parents, "n")
    with pytest.raises(UsageError, match="which this AR model does not write"):
        check_belonging("c", ar, nar)
