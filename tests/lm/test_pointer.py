import pytest
import torch
from tiny_lm import SIZE, STREAMS, make_ar, utterance

from stages.lm.generate import Sampling, generate
from stages.lm.parity import ar_checks
from stages.lm.pointer import REACH, TextPointer, even_advances, places_after, recent_places, with_advances


def test_places_are_sums_of_advances_that_stay_within_the_text():
    advances = torch.tensor([[9, 1, 0, 2, 9, 3], [0, 0, 1, 1, 1, 1]])
    lengths = torch.tensor([5, 3])
    slow = []
    for row, length in zip(advances.tolist(), lengths.tolist(), strict=True):
        place, found = 0, []
        for advance in row:
            place = min(place + (0 if advance == 9 else advance), length - 1)
            found.append(place)
        slow.append(found)
    assert places_after(advances, 9, lengths).tolist() == slow == [[0, 1, 1, 3, 3, 4], [0, 0, 1, 2, 2, 2]]


@pytest.mark.parametrize("num_tokens, num_frames", [(1, 4), (5, 3), (7, 7), (30, 24), (3, 50)])
def test_a_prompt_is_read_evenly_to_its_last_token(num_tokens, num_frames):
    reached = even_advances(num_tokens, num_frames).cumsum(0)
    assert reached[-1] == num_tokens - 1 and (even_advances(num_tokens, num_frames) >= 0).all()
    exact = (torch.arange(num_frames) + 1) * (num_tokens - 1) / num_frames
    assert ((exact - reached >= 0) & (exact - reached < 1)).all()


def test_the_text_around_the_last_places_is_shown_and_no_other():
    pointer, text = TextPointer(8, 2), torch.randn(1, 24, 8)
    length, places = torch.tensor([20]), torch.tensor([[[12, 6]]])
    shown = pointer(pointer.read(text, length), places)
    for token in range(24):
        other = text.clone()
        other[0, token] += 1
        changed = not torch.equal(pointer(pointer.read(other, length), places), shown)
        assert changed == (6 - REACH <= token <= 6 + REACH or 12 - REACH <= token <= 12 + REACH)
    last = torch.tensor([[[19, 19]]])
    behind = text.clone()
    behind[0, 20:] += 1
    assert torch.equal(pointer(pointer.read(behind, length), last), pointer(pointer.read(text, length), last))


def test_recent_places_are_those_of_the_steps_before():
    assert recent_places(torch.tensor([[1, 3, 4]]), 3).tolist() == [[[1, 0, 0], [3, 1, 0], [4, 3, 1]]]


def test_each_codebook_sees_the_text_at_its_own_frame():
    """At the step that writes codebook q of a frame the pointer has gone on, maybe far."""
    model = make_ar(pointer=True)
    for block in model.transformer.blocks:
        torch.nn.init.zeros_(block.self_attention.output.weight)
    text, codes = torch.zeros(1, 90, dtype=torch.long), torch.zeros(1, STREAMS + 1, 12, dtype=torch.long)
    codes[:, 0] = 7  # tokens a frame
    lengths, frames = torch.tensor([90]), torch.tensor([12])
    before = model.log_probabilities(text, lengths, codes, frames)
    changed = text.clone()
    changed[0, 7 * 5] = 1  # what is said in frame 4
    different = (model.log_probabilities(changed, lengths, codes, frames) != before)[0, 1:]
    assert different[:, 4].all()


def pointed_batch(num_codebooks):
    text, codes = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, num_codebooks + 1, 14, dtype=torch.long)
    for row, (tokens, frames) in enumerate(((9, 14), (6, 11))):
        own, said = utterance(tokens, frames, num_codebooks, seed=row)
        text[row, :tokens], codes[row, :, :frames] = own[0], with_advances(said[0], tokens)
    return text, torch.tensor([9, 6]), codes, torch.tensor([14, 11])


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("num_codebooks", [1, STREAMS])
def test_a_model_with_a_pointer_speaks_as_it_is_trained(num_codebooks, prefix):
    model = make_ar(num_codebooks, pointer=True, prefix=prefix)
    checks = list(ar_checks(model, *pointed_batch(num_codebooks)))
    assert len(checks) == 3 and all(check.passed for check in checks), [str(check) for check in checks]


def test_a_pointer_that_stands_still_in_generation_is_noticed(monkeypatch):
    monkeypatch.setattr("stages.lm.ar.counted", lambda advances, fill: torch.zeros_like(advances))
    assert not all(check.passed for check in ar_checks(make_ar(pointer=True), *pointed_batch(STREAMS)))


def test_a_model_follows_the_text_at_its_pointer_alone():
    """Text behind the pointer's reach is seen by attention only, which is cut off here."""
    model = make_ar(pointer=True)
    for block in model.transformer.blocks:
        torch.nn.init.zeros_(block.self_attention.output.weight)
    text, lengths, codes, frames = pointed_batch(STREAMS)
    codes[:, 0] = 0  # the pointer stays at the first token
    near, far = text.clone(), text.clone()
    near[:, 1] = (near[:, 1] + 1) % 20
    far[:, REACH + 1] = (far[:, REACH + 1] + 1) % 20
    before = model.log_probabilities(text, lengths, codes, frames)
    assert not torch.allclose(model.log_probabilities(near, lengths, codes, frames), before)
    assert torch.equal(model.log_probabilities(far, lengths, codes, frames), before)


def test_without_its_prefix_a_text_is_seen_at_the_pointer_alone():
    text, lengths, codes, frames = pointed_batch(STREAMS)
    codes[:, 0] = 0  # the pointer stays at the first token
    far = text.clone()
    far[:, REACH + 1] = (far[:, REACH + 1] + 1) % 20
    for prefix in (True, False):
        model = make_ar(pointer=True, prefix=prefix)
        same = torch.equal(*(model.log_probabilities(read, lengths, codes, frames) for read in (text, far)))
        assert same == (not prefix)


def test_a_text_that_nothing_shows_is_refused():
    with pytest.raises(ValueError, match="text_prefix can be false only with a text_pointer"):
        make_ar(prefix=False)


def test_the_advances_of_a_prompt_are_kept_in_what_is_generated():
    text, codes = utterance(8, 12)
    prompt = with_advances(codes[0], 5)
    spoken = generate(make_ar(pointer=True), text[0], prompt, Sampling(max_frames=6, min_frames=6),
                      torch.Generator().manual_seed(0))  # fmt: skip
    assert spoken.codes.shape == (STREAMS + 1, 18) and torch.equal(spoken.codes[:, :12], prompt)
    assert (spoken.codes < SIZE).all()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_speech_ends_with_the_frame_that_comes_to_the_texts_last_token(guidance):
    ends = []
    for seed in range(8):
        model, (text, _) = make_ar(pointer=True), utterance(9, 1)
        model.heads[0].bias.data[-1] = 8.0 * (-1) ** seed  # eager to end, and loath to
        spoken = generate(model, text[0], None, Sampling(max_frames=200, guidance=guidance),
                          torch.Generator().manual_seed(seed))  # fmt: skip
        places = places_after(spoken.codes[:1], SIZE, torch.tensor([9]))[0]
        assert spoken.stop_reason == "end" and places[-1] == 8 and (places[:-1] < 8).all()
        ends.append(len(places))
    assert len(set(ends)) > 1
