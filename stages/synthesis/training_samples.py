"""What a language model in training has to say: a few held-out texts, spoken at validations, heard and scored.

A loss that falls does not tell that speech comes out. So the first validation texts are spoken by the whole chain, or
by as much of it as there is: an AR model without a NAR is heard through the lowest stream alone, a NAR model refines
the true lowest stream. The names of the samples say which.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import Checkpoint, load_checkpoint, load_tensors
from stages.artifacts.samples import Sample
from stages.artifacts.token_store import TokenUtterance
from stages.codec.base import Codec, Streams
from stages.config.lm_training import LMTrainingConfig
from stages.config.models import NARConfig
from stages.config.sampling import SamplingConfig
from stages.config.stage_configs import SpeechConfig, TrainARConfig
from stages.data.token_codec import open_codec, streams_of
from stages.data.tokens import TokenData
from stages.errors import UsageError
from stages.lm.ar import ARModel
from stages.lm.generate import Sampling, generate
from stages.lm.nar import NARModel, Refinement, refine
from stages.lm.pointer import even_advances, places_after, with_advances
from stages.metrics.base import MetricInput
from stages.metrics.intelligibility import CorpusWER
from stages.metrics.summary import numbers_of
from stages.metrics.validation import require_transcriber
from stages.randomness import derive_seed
from stages.speech.transcriber import Transcriber, load_transcriber
from stages.synthesis.seams import alignment_frames

log = logging.getLogger("halle.samples")

LONGEST_SECONDS = 10.0  # of texts and prompts, where there are such: a validation is to take seconds
LONGEST_RATIO = 2.0  # of the true duration; what goes on for longer has not ended
TRUE = "true codes"
WHOLE, LOWEST_ALONE, FROM_TRUE_LOWEST = "spoken", "spoken, lowest stream alone", "refined from the true lowest stream"


@dataclass(frozen=True)
class Script:
    """An utterance whose text is spoken, and the whole other utterance of the same speaker that prompts it.

    A prompt out of a token store cannot be encoded anew; codes cut from an utterance would have seen its future.
    """

    utterance: TokenUtterance
    prompt: TokenUtterance | None
    index: int | None = None  # of the utterance, where it came out of a store

    def text_tokens(self) -> list[int]:
        """Return prompt text and text with one end, as in training."""
        before = [] if self.prompt is None else self.prompt.text_tokens[:-1].tolist()
        return [*before, *self.utterance.text_tokens.tolist()]

    def places(self, own: np.ndarray, num_frames: int) -> Tensor:
        """Return which of these tokens each frame of prompt and utterance ends in [1, frames].

        `own` [frames] says so of the utterance and its own tokens; nobody knows it of the prompt, which is read evenly.
        """
        before = len(self.text_tokens()) - len(self.utterance.text_tokens)
        prompt = even_advances(before, num_frames - len(own)).cumsum(0)
        return torch.cat([prompt, before + torch.from_numpy(own)])[None]


@dataclass(frozen=True)
class Take:
    """One script spoken: float32 `waveform` [samples], and whether the model ended by itself (None: it has no say)."""

    waveform: np.ndarray
    ended: bool | None = None


def choose_scripts(data: TokenData, number: int) -> list[Script]:
    """Return the first `number` short validation utterances of different texts, those with a prompt before others."""
    rows, items = data.store.rows, [int(index) for index in data.validation]
    items = [index for index in items if rows[index]["duration"] <= LONGEST_SECONDS] or items
    stores = data.store.origins()[0]
    by_speaker: dict[tuple[int, str], list[int]] = {}  # a name may be somebody else's in another store
    for index in items:
        by_speaker.setdefault((stores[index], rows[index]["speaker"]), []).append(index)
    prompts = {}
    for said in by_speaker.values():
        prompts |= {index: said[0] if index != said[0] else next(iter(said[1:]), None) for index in said}
    by_text: dict[str, int] = {}
    for index in sorted(items, key=lambda index: prompts[index] is None):  # keeps the order otherwise
        by_text.setdefault(rows[index]["text"], index)
    return [Script(data.store[index], None if prompts[index] is None else data.store[prompts[index]], index)
            for index in list(by_text.values())[:number]]  # fmt: skip


def planned_speech(training: LMTrainingConfig, what: str) -> str | None:
    """Return `what`, or None when no validation is to speak. Raises `MissingModelError` without its recogniser."""
    if training.samples_every == 0 or training.validation_utterances == 0:
        return None
    require_transcriber(training)
    return what


class TrainingSamples:
    """Speak the same scripts at every validation that is due; keep what was said, score what was heard."""

    def __init__(self, data: TokenData, codec: Codec, training: LMTrainingConfig, what: str,
                 say: Callable[[Script], Take]):  # fmt: skip
        self.scripts = [] if training.samples_every == 0 else choose_scripts(data, training.validation_utterances)
        self.codec, self.training, self.what, self.say = codec, training, what, say
        wanted = training.transcriber if self.scripts else None
        self.transcriber: Transcriber | None = load_transcriber(wanted) if wanted else None
        self.sounds: list[Sample] = []

    def due(self, step: int) -> bool:
        """Tell whether the validation of `step` is one to speak at: the first one after every `samples_every` steps."""
        every, spacing = self.training.samples_every, self.training.validate_every
        before = (step - 1) // spacing * spacing
        return bool(self.scripts) and (not every or step == self.training.steps or step // every > before // every)

    @torch.inference_mode()
    def speak(self, step: int) -> dict[str, float]:
        """Return `sample.*` measures of all scripts; `sounds` holds what there is to hear beside the true codes.

        wer: word error rate, %, and wer_of_codec, of the decoded true codes, below which none can come; wer_of_lowest,
        of the true lowest stream alone, for a model that is heard through it, which may be beyond words; ended: share
        that the model ended by itself; seconds_ratio: seconds spoken over those of the recordings. Where the
        validation is not one to speak at, both are empty.
        """
        self.sounds = []
        if not self.due(step):
            return {}
        takes = [self.say(script) for script in self.scripts]
        spoken = [self._hear(script, take.waveform) for script, take in zip(self.scripts, takes, strict=True)]
        self.sounds = [*self._sounds(TRUE, self._decoded, [f"text: {item.text}" for item in spoken]),
                       *self._sounds(self.what, spoken, [_heard(item) for item in spoken])]  # fmt: skip
        true_seconds = sum(script.utterance.duration for script in self.scripts)
        seconds = sum(len(take.waveform) for take in takes) / self.codec.sample_rate
        measures = {"sample.seconds_ratio": seconds / true_seconds}
        if takes[0].ended is not None:
            measures["sample.ended"] = sum(take.ended for take in takes) / len(takes)
        if self.transcriber:
            measures |= {"sample.wer": _word_errors(spoken), "sample.wer_of_codec": _word_errors(self._decoded)}
        if self.transcriber and self.what == LOWEST_ALONE:
            measures["sample.wer_of_lowest"] = _word_errors(self._lowest_decoded)
        log.info("%d texts %s: %s", len(takes), self.what,
                 ", ".join(f"{name.partition('.')[2]} {value:.4g}" for name, value in measures.items()))
        return measures

    @cached_property
    def _decoded(self) -> list[MetricInput]:
        """The true codes of every script, heard: the same at each validation."""
        device = _device(self.codec)
        return [self._hear(script, decode(self.codec, streams_of(script.utterance, device)))
                for script in self.scripts]  # fmt: skip

    @cached_property
    def _lowest_decoded(self) -> list[MetricInput]:
        """The true codes of the lowest stream alone, heard."""
        device, lowest = _device(self.codec), self.codec.hierarchy.lowest
        codes = [streams_of(script.utterance, device)[lowest.name][:, : lowest.num_codebooks]
                 for script in self.scripts]  # fmt: skip
        return [self._hear(script, decode_lowest(self.codec, own))
                for script, own in zip(self.scripts, codes, strict=True)]  # fmt: skip

    def _hear(self, script: Script, waveform: np.ndarray) -> MetricInput:
        rate = self.codec.sample_rate
        heard = self.transcriber.transcribe(waveform, rate).text if self.transcriber else None
        return MetricInput(script.utterance.text, rate, waveform, transcript=heard)

    def _sounds(self, name: str, items: Sequence[MetricInput], captions: Sequence[str]) -> list[Sample]:
        return [Sample(f"text-{number}", name, item.waveform, item.sample_rate, caption)
                for number, (item, caption) in enumerate(zip(items, captions, strict=True), start=1)]  # fmt: skip


@dataclass(frozen=True)
class ARVoice:
    """What makes sound of an AR model's codes: the codec, and a NAR model with how it reads, if there is one."""

    codec: Codec
    nar: NARModel | None = None
    windows: Refinement = field(default_factory=Refinement)

    @property
    def what(self) -> str:
        return WHOLE if self.nar is not None else LOWEST_ALONE

    def to(self, device: torch.device) -> ARVoice:
        for part in (self.codec, self.nar):
            if part is not None:
                part.to(device).eval()
        return self

    def say(self, ar: ARModel, seed: int, script: Script) -> Take:
        """Write the script's codes with `ar` and make them heard; the same seed gives the same."""
        device, lowest = _device(ar), self.codec.hierarchy.lowest
        tokens = script.text_tokens()
        text = torch.tensor(tokens, device=device)
        prompt = None if script.prompt is None else streams_of(script.prompt, device)
        given = None if prompt is None else prompt[lowest.name][0, : lowest.num_codebooks]
        rule = SamplingConfig().over({})  # as `halle synth`, told nothing else
        unit = alignment_frames(self.codec)
        limit = max(unit, round(LONGEST_RATIO * script.utterance.duration * lowest.frame_rate))
        drawing = Sampling(limit, unit, rule.temperature, rule.top_k, rule.top_p, rule.repetition_window,
                           rule.repetition_ratio)  # fmt: skip
        generator = torch.Generator().manual_seed(derive_seed(seed, "sample", script.utterance.id))
        before = len(tokens) - len(script.utterance.text_tokens)  # of the prompt
        start = with_advances(given, before) if given is not None and ar.config.text_pointer else given
        written = generate(ar, text, start, drawing, generator)
        codes = written.codes[:, : written.codes.shape[-1] // unit * unit]  # whole frames of every stream
        places = None
        if ar.config.text_pointer:
            places = places_after(codes[:1], ar.fill, torch.tensor([len(tokens)], device=device))
        waveform = self._decode(codes[None, -lowest.num_codebooks :], text[None], prompt, places)
        begins = 0 if given is None else given.shape[-1] * lowest.hop_length
        return Take(waveform[begins:], written.stop_reason == "end")

    def _decode(self, codes: Tensor, text: Tensor, prompt: Streams | None, places: Tensor | None) -> np.ndarray:
        if self.nar is None:
            return decode_lowest(self.codec, codes, prompt)
        places = places if self.nar.config.text_mode == "pointer" else None
        return decode(self.codec, refine(self.nar, self.codec.hierarchy, codes, text, prompt, self.windows,
                                         places=places).streams)  # fmt: skip


@dataclass(frozen=True)
class NARVoice:
    """What makes sound of a NAR model: the codec and the true lowest stream; for a text pointer, where it is read."""

    codec: Codec
    windows: Refinement
    places: Callable[[int], np.ndarray] | None = None  # of an utterance's index
    what: str = FROM_TRUE_LOWEST

    def say(self, nar: NARModel, script: Script) -> Take:
        """Refine the true lowest stream of the script's utterance, behind its prompt."""
        device, lowest = _device(nar), self.codec.hierarchy.lowest
        codes = streams_of(script.utterance, device)[lowest.name][:, : lowest.num_codebooks]
        prompt, begins = None, 0
        if script.prompt is not None:
            prompt = streams_of(script.prompt, device)
            before = prompt[lowest.name][:, : lowest.num_codebooks]
            codes, begins = torch.cat([before, codes], dim=-1), before.shape[-1] * lowest.hop_length
        text = torch.tensor([script.text_tokens()], device=device)
        places = self.places and script.places(self.places(script.index), codes.shape[-1]).to(device)
        refined = refine(nar, self.codec.hierarchy, codes, text, prompt, self.windows, places=places)
        return Take(decode(self.codec, refined.streams)[begins:])


def windows_of(codec: Codec, window_seconds: float | None, prompt_seconds: float) -> Refinement:
    """Return how `halle synth`, told nothing else, reads with a NAR model of these settings."""
    rate, spoken = codec.hierarchy.frame_rate, SpeechConfig()
    window = None if window_seconds is None else max(1, round(window_seconds * rate))
    slide = None if window is None or spoken.slide_seconds is None else min(window, round(spoken.slide_seconds * rate))
    return Refinement(window, slide, round(spoken.overlap_seconds * rate), spoken.window_mode,
                      prompt_frames=max(1, round(prompt_seconds * rate)))  # fmt: skip


def find_voice(config: TrainARConfig, data: TokenData) -> ARVoice | None:
    """Load the codec and NAR model of the settings, None without a codec. Raises `UsageError` for those of others."""
    if config.nar and not config.codec:
        raise UsageError("expected a codec beside --nar, got none", "give --codec RUN, the codec of the token store")
    if not config.codec:
        return None
    codec = open_codec(config.codec, data)
    if not config.nar:
        return ARVoice(codec)
    checkpoint = load_checkpoint(config.nar, "nar")
    _check_nar(checkpoint, config, data)
    nar = NARModel(NARConfig.model_validate(checkpoint.architecture["model"]))
    codec.refine_by(nar.config.block_codes)
    load_tensors(nar, checkpoint.tensors, checkpoint.folder)
    seconds = checkpoint.architecture["window_seconds"], checkpoint.architecture["prompt_seconds"]
    return ARVoice(codec, nar.requires_grad_(False), windows_of(codec, *seconds))


def _check_nar(nar: Checkpoint, config: TrainARConfig, data: TokenData) -> None:
    expected = {"codec": data.store.codec_fingerprint, "text_tokenizer": data.store.text_tokenizer_fingerprint}
    problems = [f"{name.replace('_', ' ')} `{nar.parents[name][:12]}`, the store `{digest[:12]}`"
                for name, digest in expected.items() if nar.parents[name] != digest]  # fmt: skip
    if nar.architecture["system"] != data.system:
        problems.append(f"system `{nar.architecture['system']}`, the store is read as `{data.system}`")
    if nar.architecture["model"].get("text_mode") == "pointer" and not config.model.text_pointer:
        problems.append("a text pointer, this AR model has none")
    if problems:
        raise UsageError(f"`{config.nar}` was trained with {'; '.join(problems)}",
                         "give a NAR model that was trained on this store, or none")


def decode_lowest(codec: Codec, codes: Tensor, prompt: Streams | None = None) -> np.ndarray:
    """Return float32 [samples] of what the lowest stream alone says."""
    return decode_feature(codec, codec.hierarchy.start(codes, prompt).feature)


def decode(codec: Codec, streams: Streams, levels: int | None = None) -> np.ndarray:
    """Return float32 [samples] of the transmitted streams of a batch of one, or of their first levels alone."""
    if levels is None:
        return _samples(codec.decode(streams))
    return decode_feature(codec, codec.hierarchy.teacher_feature(streams, levels + 1))


def decode_feature(codec: Codec, feature: Tensor) -> np.ndarray:
    """Return float32 [samples] of a feature [1, latent_dim, frames]."""
    return _samples(codec.decode_latents(feature))


def _samples(waveform: Tensor) -> np.ndarray:
    return waveform[0, 0].float().clamp(-1, 1).cpu().numpy()


def _device(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def _heard(item: MetricInput) -> str:
    return "" if item.transcript is None else f"heard: {item.transcript or '(nothing)'}"


def _word_errors(heard: Sequence[MetricInput]) -> float:
    metric = CorpusWER()
    return metric.summarise(numbers_of(metric, [metric.measure(item) for item in heard]))
