from dataclasses import replace

import pytest
import torch
from tiny_lm import SIZE, STREAMS, make_ar, ready, utterance
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from stages.config.models import ARConfig, TransformerConfig
from stages.errors import UsageError
from stages.lm.ar import ARModel, layout
from stages.lm.generate import Means, Sampling, draw, generate, generate_batch, truncate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def never_ending_ar(**options):
    model = make_ar(**options)
    with torch.no_grad():
        model.heads[0].bias[SIZE] = -1e4
    return model


def test_an_overfitted_model_speaks_its_utterance_back_and_ends():
    torch.manual_seed(0)
    text, codes = utterance(5, 12)
    small = TransformerConfig(dim=64, num_heads=4, num_layers=2, ffn_dim=128)
    model = ARModel(ARConfig(transformer=small, num_codebooks=STREAMS, codebook_size=SIZE, text_vocab_size=20))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        sums = model.loss(text, torch.tensor([5]), codes, torch.tensor([12]))
        optimizer.zero_grad()
        (sums.losses.sum() / sums.tokens.sum()).backward()
        optimizer.step()
    greedy = Sampling(max_frames=40, temperature=0)
    for prompt in (None, codes[0, :, :1], codes[0, :, :7]):
        spoken = generate(model.eval(), text[0], prompt, greedy, seeded())
        assert spoken.stop_reason == "end"
        assert torch.equal(spoken.codes, codes[0])
        assert spoken.steps == 12 + STREAMS
        true = model.log_probabilities(text, torch.tensor([5]), codes, torch.tensor([12]))[0]
        num_prompt = 0 if prompt is None else prompt.shape[1]
        assert torch.allclose(spoken.log_probabilities[:, num_prompt:], true[:, num_prompt:], atol=1e-5)
        assert (spoken.log_probabilities[:, :num_prompt] == 0).all()


@pytest.mark.parametrize("num_prompt", [0, 1, 3, 9])
@pytest.mark.parametrize("num_codebooks", [1, STREAMS])
def test_sampled_log_probabilities_are_the_teacher_forced_ones(num_prompt, num_codebooks):
    model = make_ar(num_codebooks)
    text, codes = utterance(6, num_prompt, num_codebooks)
    spoken = generate(model, text[0], codes[0], Sampling(max_frames=15, temperature=0.9, top_k=8), seeded())
    num_frames = spoken.codes.shape[1]
    true = model.log_probabilities(text, torch.tensor([6]), spoken.codes[None], torch.tensor([num_frames]))[0]
    if spoken.stop_reason == "max_frames":
        true[0, num_frames] = 0
    assert torch.allclose(spoken.log_probabilities[:, num_prompt:], true[:, num_prompt:], atol=1e-5)


def test_prompt_tails_are_forced_not_sampled():
    model = never_ending_ar()
    text, codes = utterance(6, 4)
    spoken = generate(model, text[0], codes[0], Sampling(max_frames=5), seeded())
    assert torch.equal(spoken.codes[:, :4], codes[0])
    assert spoken.codes.shape == (STREAMS, 9)
    assert spoken.codes.max() < SIZE


def test_a_sequence_that_never_ends_is_whole_up_to_the_limit_and_says_so():
    spoken = generate(never_ending_ar(), utterance(6, 0)[0][0], None, Sampling(max_frames=8), seeded())
    assert spoken.stop_reason == "max_frames"
    assert spoken.codes.shape == (STREAMS, 8) and spoken.steps == 8 + STREAMS
    assert spoken.codes.max() < SIZE


def test_the_end_is_not_drawn_before_min_frames():
    model = make_ar()
    with torch.no_grad():
        model.heads[0].bias[SIZE] = 1e4
    for min_frames in (0, 4):
        spoken = generate(model, utterance(6, 0)[0][0], None, Sampling(10, min_frames=min_frames), seeded())
        assert spoken.stop_reason == "end" and spoken.codes.shape[1] == min_frames


def test_the_same_seed_gives_the_same_codes_and_another_seed_others():
    model, text = never_ending_ar(), utterance(6, 0)[0][0]
    first, again, other = (generate(model, text, None, Sampling(10), seeded(seed)).codes for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_batch_generates_what_each_text_gives_alone():
    model = make_ar().double()
    jobs = [(utterance(6, 4), 3), (utterance(9, 0, seed=1), 4), (utterance(2, 7, seed=2), 5)]
    texts, prompts = [text[0] for (text, _), _ in jobs], [codes[0] for (_, codes), _ in jobs]
    sampling = Sampling(max_frames=20, top_p=0.95)
    together = generate_batch(model, texts, prompts, sampling, [seeded(seed) for _, seed in jobs])
    assert len({item.codes.shape[1] for item in together}) > 1
    for text, prompt, (_, seed), item in zip(texts, prompts, jobs, together, strict=True):
        alone = generate(model, text, prompt, sampling, seeded(seed))
        assert torch.equal(item.codes, alone.codes)
        assert (item.stop_reason, item.steps) == (alone.stop_reason, alone.steps)


@pytest.mark.parametrize("prepare", [lambda model: model, ready])
def test_the_same_seeds_give_the_same_codes_in_batches_of_1_4_and_8(prepare):
    model = prepare(make_ar())
    jobs = [utterance(2 + 3 * item % 8, 5 * item % 7, seed=item) for item in range(8)]
    texts, prompts = [text[0] for text, _ in jobs], [codes[0] for _, codes in jobs]
    sampling = Sampling(max_frames=25, temperature=0.9, top_k=9, top_p=0.95, repetition_window=6)
    results = []
    for size in (1, 4, 8):
        generators = [seeded(item) for item in range(8)]
        results.append([
            result.codes
            for first in range(0, 8, size)
            for result in generate_batch(model, texts[first : first + size], prompts[first : first + size], sampling,
                                         generators[first : first + size])
        ])  # fmt: skip
    assert len({tuple(codes.shape) for codes in results[0]}) > 3
    for alone, by_four, by_eight in zip(*results, strict=True):
        assert torch.equal(alone, by_four) and torch.equal(alone, by_eight)


def most_frequent_share(codes, window):
    """The largest share that a code had of the window before it and itself, by stream and frame."""
    return max(
        (stream[max(0, end - window) : end] == stream[end]).sum().item() / window
        for stream in codes
        for end in range(1, codes.shape[1])
    )


def test_repeating_codes_are_drawn_again_from_all_others():
    model = never_ending_ar()
    with torch.no_grad():
        for head in model.heads:
            head.bias[3] += 3  # likeliest by far: a nucleus holds it alone
    text = utterance(6, 0)[0][0]
    nucleus = Sampling(max_frames=60, top_p=0.3)
    stuck = generate(model, text, None, nucleus, seeded()).codes
    free = generate(model, text, None, replace(nucleus, repetition_window=10, repetition_ratio=0.3), seeded()).codes
    assert most_frequent_share(stuck, 10) > 0.9
    assert (free == 3).float().mean() < 0.9 * (stuck == 3).float().mean() and len(free.unique()) > len(stuck.unique())
    never = replace(nucleus, repetition_window=10, repetition_ratio=1.0)
    assert torch.equal(generate(model, text, None, never, seeded()).codes[:, 0], stuck[:, 0])


def test_repetitions_count_the_prompt_and_each_stream_alone():
    model = never_ending_ar()
    with torch.no_grad():
        for head in model.heads:
            head.weight.zero_()
            head.bias.zero_()
            head.bias[3] = 1.0
    prompt = torch.zeros(STREAMS, 8, dtype=torch.long)
    prompt[2] = 3  # only this stream has said it before
    rule = Sampling(max_frames=1, top_k=1, repetition_window=8, repetition_ratio=0.5)
    texts, generators = [utterance(6, 0)[0][0]] * 200, [seeded(seed) for seed in range(200)]
    spoken = generate_batch(model, texts, [prompt] * 200, rule, generators)
    said = (torch.stack([item.codes[:, -1] for item in spoken]) == 3).float().mean(0)
    assert (said[[0, 1, 3, 4, 5]] == 1).all()
    expected = torch.tensor([1.0] + [0.0] * (SIZE - 1)).softmax(0)[0]  # drawn from all codes
    assert abs(said[2] - expected) < 0.1


def test_what_is_fill_anyway_is_not_asked_of_the_model():
    model, calls = never_ending_ar(), []
    model.transformer.register_forward_hook(lambda *_: calls.append(1))
    spoken = generate(model, utterance(6, 0)[0][0], None, Sampling(max_frames=8), seeded())
    assert spoken.steps == 8 + STREAMS and len(calls) == 8 + STREAMS - 1


class NoDoublesOnMPS(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            assert result.device.type != "mps", func
        return result


def test_draw_asks_mps_for_no_float64_which_it_lacks():
    with FakeTensorMode(), NoDoublesOnMPS():
        logits = torch.empty(2, 3, 11, device="mps")
        drawn = draw(logits, torch.empty(2, 3), 0.9, top_k=4, top_p=0.9)
    assert drawn.device.type == "mps" and drawn.shape == (2, 3)


def test_draw_follows_the_probabilities():
    logits = torch.tensor([0.1, 0.0, 0.6, 0.3]).log().expand(4000, 4)
    drawn = draw(logits, torch.rand(4000, generator=seeded()), temperature=1.0)
    shares = drawn.bincount(minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.1, 0.0, 0.6, 0.3]), atol=0.03) and shares[1] == 0


def test_draw_never_leaves_the_kept_classes_even_at_the_ends_of_the_interval():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, 4)
    assert draw(logits, torch.tensor([0.0, 1.0]), temperature=1.0).tolist() == [1, 2]


def test_top_k_and_top_p_keep_the_likeliest():
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log()
    assert (truncate(logits, top_k=2, top_p=1.0) > -torch.inf).tolist() == [False, True, False, True]
    assert (truncate(logits, top_k=0, top_p=0.7) > -torch.inf).tolist() == [False, True, False, True]
    assert (truncate(logits, top_k=0, top_p=0.4) > -torch.inf).tolist() == [False, True, False, False]
    assert (truncate(logits, top_k=0, top_p=0.0) > -torch.inf).tolist() == [False, True, False, False]


def test_wrong_prompts_and_empty_text_are_refused():
    model = make_ar()
    with pytest.raises(UsageError, match="expected a prompt of 6 codebooks, got `1`"):
        generate(model, torch.tensor([1]), torch.zeros(1, 4, dtype=torch.long), Sampling(4), seeded())
    with pytest.raises(UsageError, match="expected text"):
        generate(model, torch.tensor([], dtype=torch.long), None, Sampling(4), seeded())
    with pytest.raises(UsageError, match="min_frames"):
        generate(model, torch.tensor([1]), None, Sampling(4, min_frames=5), seeded())


@pytest.mark.parametrize("pointer", [False, True])
def test_guidance_draws_from_what_the_text_adds_to_logits_without_it(pointer):
    """Greedy codes are the best of the logits that the same codes, read at once, give with and without the text."""
    model = make_ar(pointer=pointer)
    text = torch.tensor([5, 9, 7, 4, 2])
    sampling = Sampling(max_frames=9, min_frames=9, temperature=0.0, guidance=2.5)
    codes = generate(model, text, None, sampling, seeded(0)).codes[None]
    plan = layout(codes, torch.tensor([codes.shape[-1]]), model.fill)
    with torch.inference_mode():
        told, untold = (model._hidden(words, torch.tensor([words.shape[1]]), plan.inputs)
                        for words in (text[None], text[None, -1:]))
        for stream, head in enumerate(model.heads):
            logits = head(told) if pointer and stream == 0 else head(untold) + 2.5 * (head(told) - head(untold))
            found = logits[0, stream : stream + codes.shape[-1], : model.fill].argmax(-1)
            assert torch.equal(found, codes[0, stream])
    plain = generate(model, text, None, Sampling(max_frames=9, min_frames=9, temperature=0.0), seeded(0)).codes[None]
    assert not torch.equal(plain, codes)


def test_guided_items_are_the_same_alone_and_together():
    model = make_ar(pointer=True)
    texts, sampling = [torch.tensor([5, 9, 2]), torch.tensor([7, 8, 9, 4, 2])], Sampling(max_frames=12, guidance=1.8)
    together = generate_batch(model, texts, [None, None], sampling, [seeded(1), seeded(2)])
    for text, found, seed in zip(texts, together, (1, 2), strict=True):
        assert torch.equal(generate(model, text, None, sampling, seeded(seed)).codes, found.codes)


def codebooks(count=STREAMS, dim=5):
    return torch.randn(count, SIZE, dim, generator=seeded(3))


@pytest.mark.parametrize("pointer", [False, True])
def test_means_of_a_model_that_is_sure_are_the_entries_of_its_codes(pointer):
    model = make_ar(pointer=pointer, prefix=not pointer)
    text, codes = utterance(6, 4)
    prompt = torch.cat([torch.ones(1, 4, dtype=torch.long), codes[0]]) if pointer else codes[0]
    sure, certain = Sampling(max_frames=9, min_frames=6, temperature=0), Means(codebooks(), temperature=1e-5)
    spoken = generate_batch(model, [text[0]], [prompt], sure, [seeded()], means=certain)[0]
    assert spoken.codes.shape[-1] >= 10
    assert torch.allclose(spoken.means, certain.of_codes(spoken.codes), atol=1e-4)


def test_means_are_those_of_what_is_drawn_from_guidance_included():
    model, means = make_ar(1), Means(codebooks(1), temperature=1.5)
    text, codes = utterance(6, 3, 1)
    rule = Sampling(max_frames=5, min_frames=5, guidance=2.0)
    spoken = generate_batch(model, [text[0]], [codes[0]], rule, [seeded()], means=means)[0]

    def logits(tokens, frame):
        found, _ = model.begin(tokens, torch.tensor([tokens.shape[1]]), spoken.codes[None, :, :frame],
                               torch.tensor([frame]), 40)
        return found[0, :, :SIZE]

    for frame in range(3, spoken.codes.shape[-1]):
        told, untold = logits(text, frame), logits(text[:, -1:], frame)
        likely = ((untold + 2.0 * (told - untold)) / 1.5).softmax(-1)
        assert torch.allclose(spoken.means[:, frame], (likely @ means.codebooks[0])[0], atol=1e-4)


def test_means_are_the_same_alone_and_together_and_change_no_code():
    model, means = make_ar(), Means(codebooks(), temperature=1.0)
    texts = [utterance(count, 1, seed=count)[0][0] for count in (3, 6)]
    prompts = [utterance(1, count, seed=count)[1][0] for count in (2, 5)]
    rule = Sampling(max_frames=12, guidance=1.5)
    together = generate_batch(model, texts, prompts, rule, [seeded(1), seeded(2)], means=means)
    for seed, text, prompt, one in zip((1, 2), texts, prompts, together, strict=True):
        alone = generate_batch(model, [text], [prompt], rule, [seeded(seed)], means=means)[0]
        assert torch.equal(alone.codes, one.codes)
        assert torch.equal(generate(model, text, prompt, rule, seeded(seed)).codes, one.codes)
        assert torch.allclose(alone.means, one.means, atol=1e-5)


def test_the_advances_of_a_text_pointer_may_repeat():
    model = make_ar(pointer=True)
    with torch.no_grad():
        model.heads[0].weight.zero_()
        model.heads[0].bias.zero_()
        model.heads[0].bias[1] = 1.0  # one token a frame is the likeliest
    text, rule = utterance(30, 0)[0][0], Sampling(max_frames=20, min_frames=20, top_k=1)
    free, ruled = (generate(model, text, None, replace(rule, repetition_window=window), seeded()).codes
                   for window in (0, 10))
    assert (free[0] == 1).all() and torch.equal(ruled[0], free[0])
    assert not torch.equal(ruled[1:], free[1:]), "codes are still drawn again"
