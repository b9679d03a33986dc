import pytest
import torch
from tiny_lm import SIZE, STREAMS, TINY, make_ar, utterance

from stages.config.models import ARConfig
from stages.lm.ar import ARModel, layout
from stages.lm.delay import delay
from stages.lm.transformer import fold_names, sinusoids


def lengths(*values):
    return torch.tensor(values)


def padded_batch(first, second):
    """Two utterances of different lengths, the padding filled with ids that must not matter."""
    (text_a, codes_a), (text_b, codes_b) = first, second
    text = torch.full((2, max(text_a.shape[1], text_b.shape[1]) + 2), 7)
    codes = torch.full((2, codes_a.shape[1], max(codes_a.shape[2], codes_b.shape[2]) + 3), 5)
    for row, (tokens, frames) in enumerate((first, second)):
        text[row, : tokens.shape[1]] = tokens[0]
        codes[row, :, : frames.shape[2]] = frames[0]
    return (
        text,
        lengths(text_a.shape[1], text_b.shape[1]),
        codes,
        lengths(codes_a.shape[2], codes_b.shape[2]),
    )


def test_the_paper_size_has_708_million_parameters_without_embeddings_and_heads():
    with torch.device("meta"):
        model = ARModel(ARConfig())
    assert round(sum(p.numel() for p in model.transformer.parameters()) / 1e6) == 708


def test_layout_equals_a_slow_loop_and_takes_frames_plus_codebooks_steps():
    codes = torch.arange(2 * 3 * 4).reshape(2, 3, 4)
    frame_lengths = [4, 2]
    plan = layout(codes, lengths(*frame_lengths), fill=99)
    assert plan.targets.shape[-1] == 4 + 3
    for item, num_frames in enumerate(frame_lengths):
        for stream in range(3):
            for step in range(7):
                frame = step - stream
                real = 0 <= frame < num_frames
                ends = stream == 0 and frame == num_frames
                want = int(codes[item, stream, frame]) if real else 99
                assert plan.targets[item, stream, step] == want
                assert plan.scored[item, stream, step] == (real or ends)
                if step + 1 < 7:
                    assert plan.inputs[item, stream, step + 1] == want
    assert (plan.inputs[:, :, 0] == 99).all()


def test_only_stream_0_can_end_and_no_fill_is_ever_scored():
    plan = layout(torch.randint(SIZE, (3, STREAMS, 9)), lengths(9, 4, 1), fill=SIZE)
    scored_fill = plan.scored & (plan.targets == SIZE)
    assert scored_fill.sum(dim=(1, 2)).tolist() == [1, 1, 1]
    assert scored_fill[:, 0].sum() == 3
    assert plan.scored.sum(dim=(1, 2)).tolist() == [STREAMS * n + 1 for n in (9, 4, 1)]
    heads = make_ar().heads
    assert [head.out_features for head in heads] == [SIZE + 1] + [SIZE] * (STREAMS - 1)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_padding_changes_no_log_probability(attention):
    model = make_ar(attention=attention)
    first, second = utterance(5, 9), utterance(8, 4, seed=1)
    together = model.log_probabilities(*padded_batch(first, second))
    for row, (text, codes) in enumerate((first, second)):
        num_frames = codes.shape[2]
        alone = model.log_probabilities(text, lengths(text.shape[1]), codes, lengths(num_frames))
        assert torch.allclose(together[row, :, : num_frames + 1], alone[0], atol=1e-5)
        assert (together[row, :, num_frames + 1 :] == 0).all()
        assert (alone[0, :, :num_frames] < 0).all() and alone[0, 0, num_frames] < 0
        assert (alone[0, 1:, num_frames] == 0).all()


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("num_prompt", [0, 1, 3, 8])
def test_cached_steps_give_the_teacher_forced_log_probabilities(attention, num_prompt):
    model = make_ar(attention=attention)
    text, codes = utterance(6, 9)
    true = model.log_probabilities(text, lengths(6), codes, lengths(9))
    late = delay(torch.cat([codes, torch.full((1, STREAMS, 1), SIZE)], dim=2), SIZE)
    num_steps = late.shape[2]
    with torch.no_grad():
        logits, state = model.begin(text, lengths(6), late[:, :, :num_prompt], lengths(num_prompt), 6 + num_steps)
        for step in range(num_prompt, num_steps):
            for stream in range(STREAMS):
                frame = step - stream
                if 0 <= frame < 9 or (stream == 0 and frame == 9):
                    score = logits[:, stream].log_softmax(-1)[0, late[0, stream, step]]
                    assert abs(score - true[0, stream, frame]) < 1e-5
            if step + 1 < num_steps:
                logits = model.advance(late[:, :, step], state)


def test_cached_steps_of_a_padded_batch_agree_with_each_item_alone():
    model = make_ar()
    first, second = utterance(5, 9), utterance(8, 7, seed=1)
    text, text_lengths, codes, _ = padded_batch(first, second)
    prompts = lengths(4, 2)
    late = delay(codes, SIZE)
    with torch.no_grad():
        logits, state = model.begin(text, text_lengths, late[:, :, :4], prompts, 40)
        for offset in range(3):
            for row, (tokens, _) in enumerate((first, second)):
                prompt = int(prompts[row]) + offset
                alone, _ = model.begin(tokens, lengths(tokens.shape[1]), late[row : row + 1, :, :prompt],
                                       lengths(prompt), 40)  # fmt: skip
                for stream in range(STREAMS):
                    assert torch.allclose(logits[row, stream], alone[0, stream], atol=1e-5)
            column = torch.stack([late[row, :, int(prompts[row]) + offset] for row in range(2)])
            logits = model.advance(column, state)


def test_text_is_read_causally_unless_asked_otherwise():
    text, codes = utterance(6, 3)
    changed = text.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 20
    for attention, same in (("causal", True), ("bidirectional", False)):
        model = make_ar(attention=attention)
        outputs = []
        model.transformer.register_forward_hook(lambda *args, seen=outputs: seen.append(args[2][:, :5]))
        for tokens in (text, changed):
            model.log_probabilities(tokens, lengths(6), codes, lengths(3))
        assert torch.allclose(outputs[0], outputs[1], atol=1e-6) == same


def test_loss_sums_are_the_negative_log_probabilities_of_the_real_tokens():
    model = make_ar()
    batch = padded_batch(utterance(5, 9), utterance(8, 4, seed=1))
    sums = model.loss(*batch)
    assert torch.allclose(sums.losses, -model.log_probabilities(*batch).sum(dim=(0, 2)), rtol=1e-4)
    assert sums.tokens.tolist() == [9 + 4 + 2] + [13] * (STREAMS - 1)
    assert ((sums.correct >= 0) & (sums.correct <= sums.tokens)).all()


def test_a_six_stream_model_starts_from_valle_and_says_what_is_new():
    valle, halle = make_ar(num_codebooks=1), make_ar()
    with torch.no_grad():
        for parameter in valle.parameters():
            parameter.add_(1)
    report = halle.load_from(valle.state_dict())
    assert set(report.loaded) == set(valle.state_dict()) and not report.unused and not report.mismatched
    assert {name.split(".")[1] for name in report.new} == {"1", "2", "3", "4", "5"}
    assert {name.split(".")[0] for name in report.new} == {"audio_embeddings", "heads"}
    assert torch.equal(halle.transformer.blocks[1].ffn_in.weight, valle.transformer.blocks[1].ffn_in.weight)


def test_reported_names_that_differ_in_a_number_are_folded():
    names = ["heads.1.bias", "heads.2.bias", "blocks.0.a.1", "final_norm.weight"]
    assert fold_names(names) == ["heads.{1,2}.bias", "blocks.0.a.1", "final_norm.weight"]


def test_starting_from_another_width_is_reported_as_mismatched():
    small = ARModel(ARConfig(transformer=TINY.model_copy(update={"ffn_dim": 32}), num_codebooks=1, codebook_size=SIZE))
    report = make_ar().load_from(small.state_dict())
    assert "transformer.blocks.0.ffn_in.weight" in report.mismatched
    assert "text_embedding.weight" in report.mismatched  # 258 entries against 20


def test_positions_of_text_and_audio_are_counted_apart_each_from_0():
    model, seen = make_ar(), []
    model.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    for num_tokens in (3, 8):
        text, codes = utterance(num_tokens, 4)
        model.log_probabilities(text, lengths(num_tokens), codes, lengths(4))
        tokens = model.text_embedding(text[0]) + sinusoids(torch.arange(num_tokens), TINY.dim)
        assert torch.allclose(seen[-1][:num_tokens], tokens)
        start = sum(table.weight[SIZE] for table in model.audio_embeddings)
        assert torch.allclose(seen[-1][num_tokens] - start, sinusoids(torch.tensor(0), TINY.dim), atol=1e-5)
