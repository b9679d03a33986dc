"""A long script is spoken in passes that join, each within what the AR was trained on."""

import logging

import numpy as np
import pytest
import torch
from tiny_voice import LONG, SENTENCES, say_in_time, tiny_model, tiny_pipeline, tiny_prompt

from stages.synthesis import seams
from stages.synthesis.takes import Prefix, Request, Script, Take

HOP = 1000  # samples of a frame of the tiny codec's AR stream, 24 Hz


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def prompt(model):
    return tiny_prompt(model)


def spoken_takes(model, monkeypatch, **settings):
    """Return a pipeline and the list into which it puts every take."""
    takes = []

    def keep(pipeline, take):
        takes.append(take)
        return take

    say_in_time(monkeypatch, model)
    return tiny_pipeline(model, keep, **settings), takes


def test_every_pass_stays_within_the_length_that_the_ar_was_trained_on(model, prompt, monkeypatch):
    pipeline, takes = spoken_takes(model, monkeypatch)
    speech = pipeline.speak(LONG, prompt, seed=1)
    assert len(takes) > 1
    for take in takes:
        assert len(take.request.tokens) <= model.max_text_tokens
        assert take.request.prefix_codes.shape[-1] + take.request.expected_frames <= model.max_frames
    assert [take.request.text for take in takes] == [piece["text"] for piece in speech.report["pieces"]]
    assert " ".join(take.request.text for take in takes) == LONG


def test_a_text_within_it_and_a_single_pass_are_one_pass_over_all_tokens(model, prompt, monkeypatch):
    for text, settings in ((SENTENCES[0], {}), (LONG, {"single_pass": True})):
        pipeline, takes = spoken_takes(model, monkeypatch, **settings)
        assert pipeline.speak(text, prompt, seed=1).report["passes"] == 1
        assert list(takes[0].request.tokens) == pipeline.text_tokens(prompt.text, text)
        assert takes[0].request.seed == 1


def test_a_pass_goes_on_from_the_prompt_and_the_last_seconds_in_every_stream(model, prompt, monkeypatch):
    pipeline, takes = spoken_takes(model, monkeypatch)
    pipeline.speak(LONG, prompt, seed=1)
    first, second = takes[:2]
    prefix = second.request.prefix
    voice, carried = prompt.streams["quant1"].shape[-1], (prefix.num_samples - len(prompt.waveform)) // HOP
    assert 0 < carried <= 24 + 12  # half a second to one, found to half a second
    for name, codes in second.streams.items():
        rate = codes.shape[-1] // second.codes.shape[-1]
        assert torch.equal(codes[..., : voice * rate], prompt.streams[name])
        assert torch.equal(codes[..., voice * rate:][..., : carried * rate],
                           first.streams[name][..., first.streams[name].shape[-1] - carried * rate:]), name
    assert prefix.text.startswith(prompt.text)
    assert first.request.text.endswith(prefix.text.removeprefix(prompt.text).strip())


def test_a_long_prompt_is_not_put_before_what_was_said_last(model, monkeypatch, caplog):
    pipeline, takes = spoken_takes(model, monkeypatch)
    pipeline.speak(LONG, tiny_prompt(model, seconds=4.0), seed=1)
    assert takes[1].request.prefix.num_samples < 2 * 24_000
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    pipeline.speak(SENTENCES[0], tiny_prompt(model, seconds=4.5), seed=1)
    assert "the prompt is longer than half" in caplog.text


def test_a_pass_that_says_nothing_is_not_gone_on_from(model, prompt, monkeypatch):
    say_in_time(monkeypatch, model, frames=0)
    speech = tiny_pipeline(model).speak(LONG, prompt, seed=1)
    assert speech.report["passes"] > 1 and speech.seconds == 0
    assert [piece["carried"] for piece in speech.report["pieces"]] == [None] * speech.report["passes"]


def test_what_did_not_end_is_not_gone_on_from(model, prompt, monkeypatch):
    pipeline, takes = spoken_takes(model, monkeypatch)
    script = f"{SENTENCES[0]} A z.\n\n{SENTENCES[1]}"
    speech = pipeline.speak(script, prompt, seed=1)
    assert [take.stop_reason for take in takes] == ["max_frames", "end"] and speech.stop_reason == "max_frames"
    assert takes[1].request.prefix.text == prompt.text and speech.report["pieces"][1]["carried"] is None


def test_the_limit_holds_for_all_passes_together_and_what_was_not_spoken_is_told(model, prompt, monkeypatch):
    pipeline, _ = spoken_takes(model, monkeypatch, max_seconds=60 / 24)
    speech = pipeline.speak(LONG, prompt, seed=1)
    assert speech.report["frames"] == 60 and speech.stop_reason == "max_frames"
    told = [*(piece["text"] for piece in speech.report["pieces"]), *speech.report["not_spoken"]]
    assert " ".join(told) == LONG and speech.report["not_spoken"]


def test_pauses_count_towards_the_limit(model, prompt, monkeypatch):
    pipeline, _ = spoken_takes(model, monkeypatch, max_seconds=3.0, pause_seconds=1.0)
    speech = pipeline.speak(f"{SENTENCES[0]}\n\n{SENTENCES[1]}", prompt, seed=1)
    assert speech.seconds == 3.0 and speech.stop_reason == "max_frames"
    speech = pipeline.speak(f"{SENTENCES[0]}\n\n\n\n{SENTENCES[1]}", prompt, seed=1)
    assert speech.seconds < 3.0 and speech.report["not_spoken"] == [SENTENCES[1]]


def test_a_sentence_of_which_the_model_knows_no_letter_is_not_spoken_and_that_is_told(model, prompt, monkeypatch):
    pipeline, takes = spoken_takes(model, monkeypatch)
    speech = pipeline.speak(f"{SENTENCES[0]} 你好世界.\n\n東京.\n\n{SENTENCES[1]}", prompt, seed=1)
    assert [take.request.text for take in takes] == [SENTENCES[0], SENTENCES[1]]
    assert speech.report["not_spoken"] == ["你好世界.", "東京."] and speech.stop_reason == "unknown_text"


def test_pauses_are_exact_silence_and_pieces_are_where_the_report_says(model, prompt, monkeypatch):
    pipeline, takes = spoken_takes(model, monkeypatch, pause_seconds=0.25)
    speech = pipeline.speak(f"{SENTENCES[0]}\n\n{SENTENCES[1]}\n\n\n{SENTENCES[2]}", prompt, seed=1)
    first, second, third = speech.pieces
    assert (second.start, third.start) == pytest.approx((first.end + 0.25, second.end + 0.5))
    rate, sound = speech.sample_rate, speech.generated
    assert not sound[round(first.end * rate): round(second.start * rate)].any()
    assert len(sound) == sum(take.num_frames for take in takes) * HOP + round(0.75 * rate)
    inside = slice(round(second.start * rate) + 400, round(second.end * rate) - 400)
    assert np.array_equal(sound[inside], takes[1].generated[400:-400])


def test_neither_the_prompt_nor_what_was_carried_is_heard_in_the_speech(model, prompt, monkeypatch):
    pipeline, takes = spoken_takes(model, monkeypatch, pause_seconds=0.0)

    def decode(refined):  # a codec whose samples are the codes themselves
        return refined.streams["quant1"][0, 0].repeat_interleave(HOP).float().numpy()

    monkeypatch.setattr(pipeline, "_decode", decode)
    speech = pipeline.speak(f"{LONG}\n\n{LONG}", prompt, seed=1)
    assert prompt.streams["quant1"][0, 0].float().mean() < 8  # the AR of this test writes only 8..15
    new = np.concatenate([take.codes[0, take.request.prefix_codes.shape[-1]:].numpy() for take in takes])
    assert len(takes) > 3 and len(speech.generated) == len(new) * HOP
    middles = speech.generated[HOP // 2:: HOP]
    assert np.array_equal(middles, new)
    assert speech.prompt_samples == len(prompt.waveform) == prompt.streams["quant1"].shape[-1] * HOP


def take_of(pipeline, prompt):
    """The only pass of a sentence."""
    prefix, frames = Prefix(prompt.text, prompt.streams, len(prompt.waveform)), pipeline.max_frames()
    return pipeline.takes([pipeline.request(SENTENCES[0], prefix, 3, frames, frames)])[0]


def test_the_speech_begins_exactly_where_the_decoded_prompt_ends(model, prompt):
    take = take_of(tiny_pipeline(model), prompt)
    with torch.inference_mode():
        whole = model.codec.decode(take.streams)[0, 0].clamp(-1, 1).numpy()
    assert np.array_equal(take.generated, whole[len(prompt.waveform):])
    assert torch.equal(take.codes[:, : prompt.streams["quant1"].shape[-1]], prompt.streams["quant1"][0])


def fake_take(waveform: np.ndarray, prefix_samples: int) -> Take:
    request = Request("", (), 0, Prefix("", {}, prefix_samples), torch.zeros(1, 0), 0, 1, 1)
    return Take(request, torch.zeros(1, 0), "end", 0, {}, waveform)


def test_two_renderings_of_one_sound_join_without_a_click():
    sound = np.sin(np.arange(48_000) * 0.05).astype(np.float32)
    for gain in (1.0, 1.2):
        parts = [sound[:20_000].copy()]
        seams.join(parts, fake_take(gain * sound[8_000:], 12_000), carried=True, silence=0, sample_rate=24_000)
        joined = np.concatenate(parts)
        assert len(joined) == len(sound)
        assert np.abs(np.diff(joined)).max() < gain * 0.051 + 0.2 / 240
    parts = [sound[:20_000].copy()]
    seams.join(parts, fake_take(sound[8_000:], 12_000), carried=True, silence=0, sample_rate=24_000)
    assert np.concatenate(parts) == pytest.approx(sound, abs=1e-6)


def test_passes_that_do_not_join_are_faded_on_both_sides():
    parts = [np.ones(1000, dtype=np.float32)]
    seams.join(parts, fake_take(np.ones(2000, dtype=np.float32), 500), carried=False, silence=7, sample_rate=24_000)
    joined = np.concatenate(parts)
    assert len(joined) == 1000 + 7 + 1500
    assert np.abs(np.diff(joined)).max() < 0.005 and not joined[1000:1007].any()


def test_the_same_seed_gives_the_same_tokens_in_batches_of_1_4_and_8(model, prompt):
    pipeline = tiny_pipeline(model, max_seconds=3.0)
    texts = [*SENTENCES[:6], LONG, f"{SENTENCES[0]}\n\n{SENTENCES[1]}"]
    scripts = [Script(text, prompt, seed) for seed, text in enumerate(texts)]
    spoken = {}
    for size in (1, 4, 8):
        spoken[size] = [speech for first in range(0, 8, size)
                        for speech in pipeline.speak_all(scripts[first : first + size])]
    assert max(speech.report["passes"] for speech in spoken[1]) > 1
    for one, four, eight in zip(*spoken.values(), strict=True):
        assert one.codes.tolist() == four.codes.tolist() == eight.codes.tolist()
        assert one.generated == pytest.approx(eight.generated, abs=1e-5)


def test_scripts_are_written_side_by_side(model, prompt, monkeypatch):
    batches = say_in_time(monkeypatch, model)
    tiny_pipeline(model).speak_all([Script(text, prompt, 0) for text in (LONG, SENTENCES[0], LONG)])
    assert batches[0] == 3 and set(batches[1:]) == {2}


def test_a_take_can_be_spoken_again_from_any_frame(model, prompt):
    pipeline = tiny_pipeline(model, max_seconds=3.0)
    take = take_of(pipeline, prompt)
    begin = take.request.prefix_codes.shape[-1]
    frame = begin + take.num_frames // 2
    again, same, other = (pipeline.continue_from(take, frame, seed) for seed in (7, 7, 8))
    assert torch.equal(again.codes[:, :frame], take.codes[:, :frame])
    assert again.codes.tolist() == same.codes.tolist() != other.codes.tolist()
    assert again.num_frames <= take.request.max_frames and again.request is take.request
    assert len(again.generated) == again.num_frames * HOP


def test_what_a_check_does_to_a_pass_is_what_the_next_goes_on_from(model, prompt, monkeypatch):
    say_in_time(monkeypatch, model)

    def improve(pipeline, take):
        better = pipeline.continue_from(take, take.request.prefix_codes.shape[-1], seed=99)
        better.notes["found"] = "nothing"
        return better

    speech = tiny_pipeline(model, improve).speak(LONG, prompt, seed=1)
    plain = tiny_pipeline(model).speak(LONG, prompt, seed=1)
    assert all(piece["found"] == "nothing" for piece in speech.report["pieces"])
    assert speech.codes.tolist() != plain.codes.tolist()


def test_progress_counts_up_to_the_text_and_tells_the_frames(model, prompt):
    pipeline, told = tiny_pipeline(model, max_seconds=4.0), []
    pipeline.speak(SENTENCES[0], prompt, 1, advance=lambda count, note: told.append((count, note)))
    assert sum(count for count, _ in told) == pipeline.size_of(SENTENCES[0]) and all(count >= 0 for count, _ in told)
    assert len(told) > 3 and "of about" in told[0][1]


def test_a_continued_recording_s_text_holds_what_the_prompt_says(model, prompt, monkeypatch):
    pipeline, takes = spoken_takes(model, monkeypatch)
    beginning = tiny_prompt(model, seconds=1.0, text="")
    speech = pipeline.speak(LONG, beginning, seed=1)
    assert takes[0].request.prefix.text == "" and len(takes) > 1
    assert takes[1].request.prefix.text and takes[1].request.prefix.num_samples < 3 * 24_000
    assert len(speech.waveform) == speech.prompt_samples + len(speech.generated)
