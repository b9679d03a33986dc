import itertools
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokens import tiny_codec

from stages.codec.base import RefinementState, StreamSpec
from stages.config.models import NARConfig, TransformerConfig
from stages.config.stage_configs import SpeechConfig
from stages.lm.nar import NARModel, Refinement, draw_codes, fewest_windows, level_logits, refine, window_plan
from stages.lm.pointer import REACH
from stages.lm.transformer import sinusoids

TINY = TransformerConfig(dim=32, num_heads=4, num_layers=2, ffn_dim=64)
LATENT, LEVELS, SIZE = 5, 3, 11


def make_nar(text_mode="cross", wake=True):
    """A tiny model; `wake` fills what starts at zero, so that a test sees it act."""
    torch.manual_seed(0)
    model = NARModel(
        NARConfig(
            transformer=TINY,
            num_levels=LEVELS,
            codebook_size=SIZE,
            latent_dim=LATENT,
            text_vocab_size=20,
            text_mode=text_mode,
        )
    )
    if wake:
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.3)
    return model.eval()


def features(num_frames, seed=0, batch=1):
    return torch.randn(batch, LATENT, num_frames, generator=torch.Generator().manual_seed(seed))


def level(*values):
    return torch.tensor(values)


TEXT = torch.tensor([[3, 1, 4, 1, 5]])


def test_positions_start_with_the_unit_angle_of_zero():
    encoding = sinusoids(torch.tensor([0, 1]), 8)
    assert encoding[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert torch.allclose(encoding[1, [0, 4]], torch.tensor([0.5403, 0.8415]), atol=1e-3)  # cos 1, sin 1


PLACES = torch.tensor([[0, 0, 1, 2, 2, 3, 4, 4, 4]])  # for the mode `pointer`, of up to nine frames


def read_at(mode, num_frames, last=4):
    return {"places": PLACES[:, :num_frames].clamp(max=last)} if mode == "pointer" else {}


@pytest.mark.parametrize("mode", ["cross", "prefix", "pointer"])
def test_padding_of_text_prompt_and_clip_changes_no_output(mode):
    model = make_nar(mode)
    jobs = [(TEXT, features(3, 1), features(9, 2), 2), (TEXT[:, :2], features(6, 3), features(4, 4), 1)]
    text, prompt, clip = torch.full((2, 7), 9), 50 * features(8, 5, 2), 50 * features(12, 6, 2)
    for row, (tokens, before, wanted, _) in enumerate(jobs):
        text[row, : tokens.shape[1]] = tokens[0]
        prompt[row, :, : before.shape[2]] = before[0]
        clip[row, :, : wanted.shape[2]] = wanted[0]
    places = torch.zeros(2, 12, dtype=torch.long)
    places[:, :9] = PLACES
    places[1].clamp_(max=1)
    together = model(
        clip, level(2, 1), text, level(9, 4), level(5, 2), prompt, level(3, 6),  # lengths of clips, texts, prompts
        places if mode == "pointer" else None,
    )  # fmt: skip
    for row, (tokens, before, wanted, which) in enumerate(jobs):
        alone = model(wanted, level(which), tokens, prompt=before,
                      **read_at(mode, wanted.shape[2], tokens.shape[1] - 1))  # fmt: skip
        assert torch.allclose(together[row, : wanted.shape[2]], alone[0], atol=1e-5)


@pytest.mark.parametrize("mode", ["cross", "prefix"])
def test_an_item_without_a_prompt_reads_as_if_none_were_given(mode):
    model = make_nar(mode)
    clip = features(6)
    beside_prompted = model(clip, level(1), TEXT, level(6), level(5), 9 * features(4, 1), level(0))
    assert torch.allclose(beside_prompted, model(clip, level(1), TEXT), atol=1e-5)


@pytest.mark.parametrize("mode", ["cross", "prefix", "pointer"])
def test_text_prompt_and_level_all_matter(mode):
    model, clip, prompt, read = make_nar(mode), features(6), features(4, 1), read_at(mode, 6)
    base = model(clip, level(1), TEXT, prompt=prompt, **read)
    assert not torch.allclose(base, model(clip, level(1), TEXT.flip(1), prompt=prompt, **read), atol=1e-3)
    assert not torch.allclose(base, model(clip, level(1), TEXT, prompt=prompt.flip(2), **read), atol=1e-3)
    assert not torch.allclose(base, model(clip, level(2), TEXT, prompt=prompt, **read), atol=1e-3)


def test_with_a_pointer_only_the_text_that_is_read_there_matters():
    model, clip, text = make_nar("pointer"), features(6), torch.arange(40)[None] % 20
    places = torch.tensor([[10, 10, 11, 12, 12, 13]])
    base = model(clip, level(1), text, places=places)
    far, near = text.clone(), text.clone()
    far[0, 13 + REACH + 1] += 1
    near[0, 13 + REACH] = (near[0, 13 + REACH] + 1) % 20
    assert torch.equal(base, model(clip, level(1), far, places=places))
    assert not torch.equal(base, model(clip, level(1), near, places=places))
    assert not torch.allclose(base, model(clip, level(1), text, places=places + 1), atol=1e-3)


def test_refining_shows_each_window_the_places_of_its_own_frames():
    model, hierarchy = make_nar("pointer"), FakeHierarchy()
    shown = []
    model.register_forward_hook(lambda _, args, named, out: shown.append(named["places"].tolist()), with_kwargs=True)
    lowest, places = torch.randint(SIZE, (1, 2, 14)), torch.arange(14)[None] // 3
    prompt = {"low": lowest[..., :4], **{f"level{n}": torch.randint(SIZE, (1, 8)) for n in (1, 2, 3)}}
    refine(model, hierarchy, lowest, TEXT, prompt, Refinement(8, 4, windows_per_batch=1), places=places)
    whole = [place for place in places[0, 4:].tolist() for _ in range(2)]  # two latent frames a frame of the lowest
    assert shown == 3 * [[whole[start : start + 8]] for start in (0, 4, 8, 12)]


def test_the_prompt_is_marked_as_such():
    model, clip, prompt = make_nar(), features(6), features(4, 1)
    with_prompt, alone = (model(clip, level(1), TEXT, prompt=given) for given in (prompt, None))
    with torch.no_grad():
        model.prompt_embedding.normal_()  # a constant would not pass the norms
    assert not torch.allclose(with_prompt, model(clip, level(1), TEXT, prompt=prompt), atol=1e-3)
    assert torch.equal(alone, model(clip, level(1), TEXT))


def test_levels_start_alike_and_differ_by_their_heads_alone():
    model = make_nar(wake=False)
    with torch.no_grad():
        model.head_weight.copy_(model.head_weight[:1].expand_as(model.head_weight))
    clip = features(6)
    assert torch.equal(model(clip, level(1), TEXT), model(clip, level(3), TEXT))


def test_the_loss_counts_real_frames_per_level():
    model = make_nar()
    targets = torch.randint(SIZE, (3, 8))
    clip, lengths, levels = features(8, batch=3), level(8, 5, 2), level(3, 1, 3)
    sums = model.loss(targets, lengths, levels, feature=clip, text=TEXT.expand(3, -1))
    assert sums.tokens.tolist() == [5, 0, 10]
    scores = model(clip, levels, TEXT.expand(3, -1), lengths).log_softmax(-1)
    true = [sum(scores[row, t, targets[row, t]] for t in range(int(lengths[row]))) for row in range(3)]
    assert torch.allclose(-sums.losses, torch.stack([true[1], torch.tensor(0.0), true[0] + true[2]]), atol=1e-4)


def test_inputs_are_standardised_by_stored_statistics():
    plain, scaled, clip = make_nar(), make_nar(), features(6)
    mean, std = torch.arange(5.0), torch.arange(1.0, 6.0)
    scaled.set_input_statistics(mean, std)
    moved = clip * std[:, None] + mean[:, None]
    assert torch.allclose(scaled(moved, level(1), TEXT), plain(clip, level(1), TEXT), atol=1e-5)
    assert torch.equal(scaled.state_dict()["input_std"], std)
    scaled.set_input_statistics(mean, torch.zeros(5))
    assert scaled(clip, level(1), TEXT).isfinite().all()


def test_halle_starts_as_valles_blocks_without_text():
    valle, halle = make_nar("prefix"), make_nar("cross", wake=False)
    report = halle.load_from(valle.state_dict())
    assert set(report.loaded) == set(valle.state_dict()) and not report.unused and not report.mismatched
    assert report.new and all("cross_" in name for name in report.new)
    clip, prompt = features(7), features(3, 1)
    without_text = valle(clip, level(2), TEXT[:, :0], prompt=prompt)
    assert torch.allclose(halle(clip, level(2), TEXT, prompt=prompt), without_text, atol=1e-6)


def test_cross_attention_learns_although_it_starts_at_zero():
    model = make_nar(wake=False)
    model(features(6), level(1), TEXT).square().sum().backward()
    assert model.transformer.blocks[0].cross_attention.output.weight.grad.abs().sum() > 0


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.integers(1, 20), st.data(), st.sampled_from(["center", "paper"]))
def test_windows_keep_each_frame_exactly_once_within_what_they_read(num_frames, width, data, mode):
    slide = data.draw(st.integers(1, width))
    plan = window_plan(num_frames, width, slide, mode)
    kept = [frame for window in plan for frame in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(num_frames))
    assert all(w.start <= w.keep_start and w.keep_stop <= w.stop <= num_frames for w in plan)
    assert all(w.stop - w.start == min(width, num_frames) for w in plan)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_center_windows_keep_the_frame_that_lies_farthest_from_an_edge(num_frames, width, data):
    plan = window_plan(num_frames, width, data.draw(st.integers(1, width)), "center")

    def depth(window, frame):
        return min(frame - window.start, window.stop - 1 - frame)

    for window in plan:
        for frame in range(window.keep_start, window.keep_stop):
            assert depth(window, frame) == max(depth(w, frame) for w in plan if w.start <= frame < w.stop)


def test_a_frame_as_far_from_the_edges_of_two_windows_is_kept_by_the_earlier():
    assert [(w.start, w.keep_start, w.keep_stop) for w in window_plan(7, 5, 2)] == [(0, 0, 4), (2, 4, 7)]


def test_paper_windows_keep_the_earlier_one_and_number_as_in_the_paper():
    plan = window_plan(90 * 48, 28 * 48, 5 * 48, "paper")
    assert len(plan) == 14  # 14 windows of 28 s sliding by 5 s for 90 s
    assert (plan[0].keep_start, plan[0].keep_stop) == (0, 28 * 48)
    assert all(window.keep_stop == window.stop for window in plan)
    assert len(window_plan(180 * 48, 54 * 48, 5 * 48)) == 27
    with pytest.raises(ValueError, match="slide"):
        window_plan(10, 4, 5)


def test_the_papers_slide_takes_98_passes_for_90_s_and_the_default_fewer_than_a_third():
    """A pass is one window at one of the seven levels."""
    paper = Refinement(28 * 48, 5 * 48, window_mode="paper")
    assert 7 * len(paper.windows(90 * 48)) == 98
    config = SpeechConfig()
    assert config.slide_seconds is None
    default = Refinement(28 * 48, overlap_frames=round(48 * config.overlap_seconds))
    assert 3 * 7 * len(default.windows(90 * 48)) < 98


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 80), st.integers(1, 20), st.integers(0, 25))
def test_fewest_windows_overlap_as_asked_and_one_less_would_not(num_frames, width, overlap):
    plan = fewest_windows(num_frames, width, overlap)
    kept = [frame for window in plan for frame in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(num_frames))
    asked = min(overlap, width // 2)
    for before, after in itertools.pairwise(plan):
        assert before.stop - after.start >= asked and after.start > before.start
    slides = len(plan) - 1
    assert slides == 0 or (slides - 1) * (width - asked) < num_frames - width
    narrowed = {window.stop - window.start for window in plan}
    assert len(narrowed) == 1 and max(narrowed) <= width
    assert (slides + 1) * (max(narrowed) - 1) - slides * asked < num_frames  # one frame less would not do
    gaps = [after.start - before.start for before, after in itertools.pairwise(plan)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


@pytest.mark.parametrize("mode", ["cross", "prefix"])
def test_one_text_and_prompt_serve_a_batch_of_clips(mode):
    model, clips, prompt = make_nar(mode), features(6, batch=3), features(4, 1)
    levels = level(1, 2, 3)
    found = model(clips, levels, TEXT, prompt=prompt)
    expected = model(clips, levels, TEXT.expand(3, -1), prompt=prompt.expand(3, -1, -1))
    assert torch.allclose(found, expected, atol=1e-6)


def test_one_window_that_fits_equals_reading_everything_at_once():
    model, feature, prompt = make_nar(), features(20), features(4, 1)
    whole = level_logits(model, feature, 2, TEXT, prompt)
    assert torch.equal(whole, model(feature, level(2), TEXT, prompt=prompt))
    fitting = Refinement(window_frames=20, slide_frames=5)
    assert torch.equal(whole, level_logits(model, feature, 2, TEXT, prompt, fitting))


@pytest.mark.parametrize("windows_per_batch", [1, 3])
def test_windows_are_read_apart_from_position_0_and_merged_by_the_plan(windows_per_batch):
    model, feature, prompt = make_nar(), features(20), features(4, 1)
    settings = Refinement(8, 3, windows_per_batch=windows_per_batch)
    found = level_logits(model, feature, 2, TEXT, prompt, settings).argmax(-1)
    for window in window_plan(20, 8, 3):
        alone = model(feature[..., window.start : window.stop], level(2), TEXT, prompt=prompt).argmax(-1)[0]
        kept = alone[window.keep_start - window.start : window.keep_stop - window.start]
        assert torch.equal(found[0, window.keep_start : window.keep_stop], kept)


def test_guidance_adds_what_the_text_says_beyond_what_is_known_without_it():
    model = make_nar("pointer")
    feature, text = torch.randn(1, model.config.latent_dim, 12), torch.tensor([[4, 5, 6, 2]])
    places = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]])
    guided = level_logits(model, feature, 1, text, settings=Refinement(guidance=3.0), places=places)
    with torch.inference_mode():
        told = model(feature, torch.tensor([1]), text, places=places)
        untold = model(feature, torch.tensor([1]), text[:, -1:], places=torch.zeros_like(places))
    assert torch.equal(guided, untold + 3 * (told - untold))
    assert not torch.equal(guided.argmax(-1), told.argmax(-1))


def test_sampling_levels_needs_a_seed_only_and_differs_from_greedy():
    logits = level_logits(make_nar(), features(30), 1, TEXT)
    first, again = (draw_codes(logits, 2.0, torch.Generator().manual_seed(3)) for _ in "ab")
    assert torch.equal(first, again)
    assert torch.equal(draw_codes(logits, 0.0), logits.argmax(-1)) and not torch.equal(first, logits.argmax(-1))


LOWEST = StreamSpec("low", "transmitted", 2, 24.0, 1000, SIZE)


@dataclass
class FakeHierarchy:
    """Level l's feature is the mean of the codes before it; remembers what it is asked."""

    calls: list = field(default_factory=list)
    num_levels: int = LEVELS
    latent_dim: int = LATENT
    codebook_size: int = SIZE
    frame_rate: float = 48.0
    lowest: StreamSpec = LOWEST

    def _feature(self, streams, up_to):
        low = streams["low"].float().repeat_interleave(2, dim=-1)
        rows = [low[:, 0], low[:, 1], *(streams[f"level{index}"].float() for index in range(1, up_to))]
        total = torch.stack(rows).sum(0)
        return torch.stack([total * (1 + channel) / 9 for channel in range(LATENT)], dim=1)

    def start(self, lowest, prompt=None, means=None):
        assert means is None
        self.calls.append(("start", lowest.shape[-1], prompt is not None))
        streams = {"low": lowest}
        return RefinementState(1, self._feature(streams, 1), streams, prompt or {})

    def accept(self, state, codes):
        self.calls.append(("accept", state.level, codes.shape[-1]))
        streams = {**state.streams, f"level{state.level}": codes}
        return replace(state, level=state.level + 1, streams=streams, feature=self._feature(streams, state.level + 1))

    def teacher_feature(self, streams, level):
        return self._feature(streams, level)

    def levels_in(self, streams):
        return sum(name.startswith("level") for name in streams)

    def level_codes(self, streams, level):
        return streams[f"level{level}"]


def test_refining_takes_levels_outside_and_windows_inside_and_keeps_the_prompt():
    model, hierarchy = make_nar(), FakeHierarchy()
    reads = []
    model.register_forward_hook(lambda _, args, out: reads.append((int(args[1][0]), args[0].shape[-1])))
    lowest = torch.randint(SIZE, (1, 2, 14))
    prompt = {"low": lowest[..., :4], **{f"level{n}": torch.randint(SIZE, (1, 8)) for n in (1, 2, 3)}}
    streams = refine(model, hierarchy, lowest, TEXT, prompt, Refinement(8, 4, windows_per_batch=1)).streams
    assert hierarchy.calls == [("start", 14, True), *(("accept", n, 28) for n in (1, 2, 3))]
    assert reads == [(n, 8) for n in (1, 2, 3) for _ in range(4)]  # 20 target frames: starts 0 4 8 12
    assert torch.equal(streams["low"], lowest)
    for n in (1, 2, 3):
        assert torch.equal(streams[f"level{n}"][:, :8], prompt[f"level{n}"])
        assert streams[f"level{n}"].shape == (1, 28)


@pytest.mark.parametrize("num_prompt", [0, 8])
def test_each_level_is_read_from_what_the_levels_before_it_gave_and_the_complete_prompt(num_prompt):
    model, hierarchy = make_nar(), FakeHierarchy()
    lowest = torch.randint(SIZE, (1, 2, 14))
    prompt = complete = None
    if num_prompt:
        prompt = {f"level{n}": torch.randint(SIZE, (1, num_prompt)) for n in (1, 2, 3)}
        prompt["low"] = lowest[..., : num_prompt // 2]
        complete = hierarchy.teacher_feature(prompt, LEVELS + 1)
    reads = []
    hook = model.register_forward_hook(
        lambda _, args, named, out: reads.append((args[0], named["prompt"])), with_kwargs=True
    )
    streams = refine(model, hierarchy, lowest, TEXT, prompt).streams
    hook.remove()
    assert len(reads) == LEVELS
    for n, (shown, before) in enumerate(reads, start=1):
        assert torch.equal(shown, hierarchy.teacher_feature(streams, n)[..., num_prompt:])
        assert before is complete is None or torch.equal(before, complete)
        likeliest = level_logits(model, shown, n, TEXT, before).argmax(-1)
        assert torch.equal(streams[f"level{n}"][:, num_prompt:], likeliest)


def test_of_a_long_prompt_the_model_reads_the_end_and_the_codec_all():
    model, hierarchy = make_nar(), FakeHierarchy()
    lowest = torch.randint(SIZE, (1, 2, 14))
    prompt = {f"level{n}": torch.randint(SIZE, (1, 8)) for n in (1, 2, 3)} | {"low": lowest[..., :4]}
    reads = []
    hook = model.register_forward_hook(lambda _, args, named, out: reads.append(named["prompt"]), with_kwargs=True)
    streams = refine(model, hierarchy, lowest, TEXT, prompt, Refinement(prompt_frames=3)).streams
    hook.remove()
    complete = hierarchy.teacher_feature(prompt, LEVELS + 1)
    assert all(torch.equal(read, complete[..., -3:]) for read in reads)
    assert all(torch.equal(streams[f"level{n}"][:, :8], prompt[f"level{n}"]) for n in (1, 2, 3))


class Oracle:
    """A model that knows the true codes, and remembers the features that it was shown."""

    def __init__(self, true, num_levels):
        self.true, self.shown = true, dict.fromkeys(range(1, num_levels + 1))

    def __call__(self, feature, levels, text, prompt=None):
        self.shown[int(levels[0])] = feature
        return torch.nn.functional.one_hot(self.true(int(levels[0])), 16).float()


@pytest.mark.parametrize("system", ["halle", "valle"])
def test_refining_a_real_codecs_true_codes_shows_exactly_the_training_features(system):
    codec = tiny_codec(system)
    streams = codec.encode(torch.randn(1, 1, 20_000, generator=torch.Generator().manual_seed(0)))
    hierarchy = codec.hierarchy
    oracle = Oracle(lambda n: hierarchy.level_codes(streams, n), hierarchy.num_levels)
    lowest = streams[hierarchy.lowest.name][:, : hierarchy.lowest.num_codebooks]
    refined = refine(oracle, hierarchy, lowest, TEXT).streams
    for n, shown in oracle.shown.items():
        assert torch.equal(shown, hierarchy.teacher_feature(streams, n))
    assert all(torch.equal(refined[spec.name], streams[spec.name]) for spec in codec.transmitted)
