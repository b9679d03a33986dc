"""Text and a prompt to speech: the AR writes the lowest stream, the NAR refines it by levels, the codec decodes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from stages.codec.base import RefinementState
from stages.config.stage_configs import SpeechConfig
from stages.errors import UsageError
from stages.lm.generate import Generation, Means, Sampling, generate_batch
from stages.lm.nar import Refinement, refine
from stages.lm.pointer import places_after, with_advances
from stages.randomness import derive_seed
from stages.synthesis.long_script import paragraphs_of, sentences_of
from stages.synthesis.model import SpeechModel
from stages.synthesis.prompt import Prompt
from stages.synthesis.reading import Reading
from stages.synthesis.seams import alignment_frames
from stages.synthesis.takes import Prefix, Request, Script, Speech, Take
from stages.synthesis.training_samples import decode, decode_feature
from stages.text.normalizer import normalize

__all__ = ["Speech", "SpeechPipeline"]
log = logging.getLogger("halle.synth")

MAX_TEXT_OVER_TRAINING = 8  # a single pass refuses texts this many times longer than the longest seen

Advance = Callable[[int, str], None]  # text tokens spoken since the last call, and a note


class SpeechPipeline:
    """Speak texts with one loaded model. The same seed, text and prompt give the same samples on a device.

    `improve(pipeline, take)` is called for every pass before the next one goes on from it, and returns the take to
    keep: that one, or another made with `continue_from`. Its `notes` go into the report.
    """

    def __init__(self, model: SpeechModel, config: SpeechConfig,
                 improve: Callable[[SpeechPipeline, Take], Take] | None = None):
        self.model, self.config, self.improve = model, config, improve
        self.sampling = config.sampling.over({})
        for part, guidance in (("ar", self.sampling.guidance), ("nar", self.sampling.nar_guidance)):
            if guidance != 1 and part not in model.guided:
                raise UsageError(f"expected guidance 1 for this {part.upper()} model, got {guidance:g}: it never had "
                                 "to do without its text", "train it with -O no_text_probability=0.1")
        most = model.codec.hierarchy.num_levels
        if (self.sampling.nar_levels or 0) > most:
            raise UsageError(f"expected sampling.nar_levels of at most {most}, what this codec has, "
                             f"got {self.sampling.nar_levels}", "leave it out to hear all of them")
        if self.sampling.mean_temperature and not self.sampling.nar_mean:
            raise UsageError("expected sampling.nar_mean with sampling.mean_temperature: the NAR's codes are for codes",
                             "-O sampling.nar_mean=true, or -O sampling.mean_temperature=0")
        if self.sampling.nar_mean and self.sampling.nar_temperature:
            raise UsageError("expected sampling.nar_temperature 0 where means are heard, "
                             f"got {self.sampling.nar_temperature:g}", "draw codes with -O sampling.nar_mean=false")

    def speak(self, text: str, prompt: Prompt, seed: int, advance: Advance | None = None) -> Speech:
        """Speak `text` after `prompt`, in several passes when it is longer than what the AR was trained on.

        Raises `UsageError` when nothing is left of the text to speak.
        """
        return self.speak_all([Script(text, prompt, seed)], advance)[0]

    def speak_all(self, scripts: Sequence[Script], advance: Advance | None = None) -> list[Speech]:
        """Speak several scripts, their passes side by side in the AR; each as it would be spoken alone."""
        for script in scripts:
            self._refuse_unknown(script.text)
        readings = [Reading(self, script) for script in scripts]
        while waiting := [(reading, request) for reading in readings if (request := reading.next_request())]:
            requests = [request for _, request in waiting]
            for (reading, _), take in zip(waiting, self.takes(requests, advance), strict=True):
                left = reading.accept(take)
                if left and advance is not None:
                    advance(-left, "")
        return [reading.speech() for reading in readings]

    def continue_from(self, take: Take, frame: int, seed: int) -> Take:
        """Speak a take's request again from `frame` on: its earlier codes are kept, what follows is drawn with `seed`.

        Frames are columns of `take.codes`, the prefix's included, so `take.request.prefix_codes.shape[-1]` is the
        first that can be drawn again.
        """
        request = take.request
        left = request.max_frames - (frame - request.prefix_codes.shape[-1])
        kept = take.codes if take.advances is None else torch.cat([take.advances, take.codes])
        generation = self._generate([request], [kept[:, :frame]], left, [seed])[0]
        if take.means is not None:
            generation = replace(generation, means=torch.cat([take.means[:, :frame], generation.means[:, frame:]], 1))
        return self.render(request, generation, seed)

    def takes(self, requests: Sequence[Request], advance: Advance | None = None) -> list[Take]:
        """Write all requests at once, then render and, if asked for, improve them one by one."""
        began = time.perf_counter()
        generations = self.write(requests, advance)
        seconds = (time.perf_counter() - began) / len(requests)
        takes = []
        for request, generation in zip(requests, generations, strict=True):
            take = self.render(request, generation, request.seed)
            take.seconds["ar_seconds"] = round(seconds, 4)
            takes.append(take if self.improve is None else self.improve(self, take))
        return takes

    def write(self, requests: Sequence[Request], advance: Advance | None = None) -> list[Generation]:
        """Let the AR write the codes of several requests; those that may become equally long go in one batch."""
        written: dict[int, Generation] = {}
        order = sorted(range(len(requests)), key=lambda index: requests[index].max_frames)
        for max_frames, group in groupby(order, key=lambda index: requests[index].max_frames):
            indices = list(group)
            batch = [requests[index] for index in indices]
            counter = _Counter(batch, advance)
            codes, seeds = [self._begun(request) for request in batch], [request.seed for request in batch]
            written |= zip(indices, self._generate(batch, codes, max_frames, seeds, counter.step), strict=True)
            counter.finish()
        return [written[index] for index in range(len(requests))]

    def render(self, request: Request, generation: Generation, seed: int) -> Take:
        """Refine what the AR wrote and decode it, the prefix included."""
        unit = alignment_frames(self.model.codec)
        written = generation.codes[:, : generation.codes.shape[-1] // unit * unit]  # whole frames of every stream
        advances, codes = (written[:1], written[1:]) if self.model.ar.config.text_pointer else (None, written)
        means = None if generation.means is None else generation.means[:, : written.shape[-1]]
        watch = _Stopwatch()
        refined = self._refine(request, codes, advances, means, _generator(seed, "nar"))
        watch.lap("nar_seconds")
        waveform = self._decode(refined)
        watch.lap("decode_seconds")
        return Take(request, codes, generation.stop_reason, generation.steps, refined.streams, waveform, watch.laps,
                    advances=advances, means=means)

    def request(self, text: str, prefix: Prefix, seed: int, max_frames: int, expected_frames: int) -> Request:
        """Prepare one pass that speaks `text` after `prefix`."""
        tokens = self.text_tokens(prefix.text, text)
        return Request(text, tuple(tokens), self.count(text), prefix, self.prefix_codes(prefix), seed, max_frames,
                       expected_frames)

    def text_tokens(self, prompt_text: str, text: str) -> list[int]:
        """Return the token ids of prompt text and text as the models read them, both normalised."""
        heard, spoken = normalize(prompt_text), normalize(text)
        tokens = self.model.text_tokenizer.encode_pair(heard, spoken)
        unknown = self.model.text_tokenizer.unknown_characters(f"{heard} {spoken}")
        if unknown:
            log.warning("the model knows no character of %s; they are left out", ", ".join(f"`{c}`" for c in unknown))
        limit = self.model.max_text_tokens * MAX_TEXT_OVER_TRAINING
        if len(tokens) > limit:
            raise UsageError(f"{len(tokens):,} text tokens; this model was trained on at most "
                             f"{self.model.max_text_tokens:,} and takes {limit:,}", "split the text")
        return tokens

    def _refuse_unknown(self, script: str) -> None:
        """Refuse a script of which the model knows no letter: it would speak something else."""
        if self.is_unknown(script):
            unknown = list(self.model.text_tokenizer.unknown_characters(normalize(script)))[:5]
            raise UsageError(f"the model knows no letter of the text: {', '.join(f'`{c}`' for c in unknown)}",
                             "give a text in the language and script that the model was trained on")

    def is_unknown(self, text: str) -> bool:
        """Say whether a text has letters or digits, and the model knows none of them."""
        letters = {character for character in normalize(text) if character.isalnum()}
        unknown = self.model.text_tokenizer.unknown_characters("".join(sorted(letters)))
        return bool(letters) and all(letter in unknown or letter.lower() in unknown for letter in letters)

    def count(self, text: str) -> int:
        """Return the number of text tokens of a text as it is written."""
        return len(self.model.text_tokenizer.encode(normalize(text))) - 1  # without the end

    def size_of(self, script: str) -> int:
        """Return about how many text tokens will be spoken: what `advance` counts up to."""
        return sum(self.count(text) for _, paragraph in paragraphs_of(script) for text in sentences_of(paragraph))

    def max_frames(self) -> int:
        """Longest speech, in frames of the lowest stream: the setting, else what the AR was trained on."""
        lowest = self.model.codec.hierarchy.lowest
        if self.config.max_seconds is not None:
            return max(1, round(self.config.max_seconds * lowest.frame_rate))
        return self.model.max_frames

    def prefix_codes(self, prefix: Prefix) -> Tensor:
        """Return the codes [codebooks, frames] of the AR's stream."""
        lowest = self.model.codec.hierarchy.lowest
        return prefix.streams[lowest.name][0, : self.model.ar.config.num_codebooks]

    def _begun(self, request: Request) -> Tensor:
        """Return what the AR goes on from: the prefix's codes, and before them where its text is read."""
        if not self.model.ar.config.text_pointer:
            return request.prefix_codes
        before = len(request.tokens) - 1 - request.own_tokens
        if not request.prefix.text:  # the prefix says the beginning of the text
            frames = request.prefix_codes.shape[-1]
            before = round(request.own_tokens * frames / (frames + request.expected_frames))
        return with_advances(request.prefix_codes, before)

    def _generate(self, requests: Sequence[Request], codes: Sequence[Tensor], max_frames: int, seeds: Sequence[int],
                  on_step: Callable[[], None] | None = None) -> list[Generation]:
        sampling = Sampling(max_frames=max_frames, min_frames=1, temperature=self.sampling.temperature,
                            top_k=self.sampling.top_k, top_p=self.sampling.top_p,
                            repetition_window=self.sampling.repetition_window,
                            repetition_ratio=self.sampling.repetition_ratio, guidance=self.sampling.guidance)
        texts = [torch.tensor(request.tokens, device=self.model.device) for request in requests]
        generators = [_generator(seed, "ar") for seed in seeds]
        return generate_batch(self.model.ar, texts, codes, sampling, generators, on_step=on_step,
                              cuda_graphs=self.config.cuda_graphs, means=self._means())

    def _means(self) -> Means | None:
        temperature = self.sampling.mean_temperature
        return Means(torch.stack(self.model.codec.hierarchy.lowest_codebooks()), temperature) if temperature else None

    def _refine(self, request: Request, codes: Tensor, advances: Tensor | None, means: Tensor | None,
                generator: torch.Generator) -> RefinementState:
        text, places = torch.tensor([request.tokens], device=self.model.device), None
        if self.model.nar.config.text_mode == "pointer":
            places = places_after(advances, self.model.ar.fill, torch.tensor([text.shape[1]], device=text.device))
        return refine(self.model.nar, self.model.codec.hierarchy, codes[None], text, request.prefix.streams,
                      self._windows(), generator, places, None if means is None else means[None])

    def _windows(self) -> Refinement:
        rate = self.model.codec.hierarchy.frame_rate
        seconds = self.config.window_seconds or self.model.window_seconds
        window = None if seconds is None else max(1, round(seconds * rate))
        slide = self.config.slide_seconds
        return Refinement(
            window_frames=window,
            slide_frames=None if window is None or slide is None else min(window, max(1, round(slide * rate))),
            overlap_frames=round(self.config.overlap_seconds * rate),
            window_mode=self.config.window_mode,
            temperature=self.sampling.nar_temperature,
            prompt_frames=max(1, round(self.model.nar_prompt_seconds * rate)),
            guidance=self.sampling.nar_guidance,
            levels=self.sampling.nar_levels,
            mean=self.sampling.nar_mean,
        )

    @torch.inference_mode()
    def _decode(self, refined: RefinementState) -> np.ndarray:
        if self.sampling.nar_mean:
            return decode_feature(self.model.codec, refined.feature)
        return decode(self.model.codec, refined.streams, self.sampling.nar_levels)


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, name))


class _Counter:
    """Tell, after every step of a batch, how much of its text has probably been spoken."""

    def __init__(self, requests: Sequence[Request], advance: Advance | None):
        self.requests, self.advance = requests, advance
        self.steps, self.told = 0, 0
        self.expected = max(request.expected_frames for request in requests)

    def step(self) -> None:
        self.steps += 1
        self._tell(sum(round(request.own_tokens * min(1.0, self.steps / request.expected_frames))
                       for request in self.requests))

    def finish(self) -> None:
        self._tell(sum(request.own_tokens for request in self.requests))

    def _tell(self, spoken: int) -> None:
        if self.advance is not None:
            self.advance(spoken - self.told, f"frame {self.steps} of about {self.expected}")
        self.told = spoken


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 4)
        self._last = now
