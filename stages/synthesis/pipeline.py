"""Text and a prompt to speech: the AR writes the lowest stream, the NAR refines it by levels, the codec decodes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.config.stage_configs import SpeechConfig
from stages.errors import UsageError
from stages.lm.generate import Generation, Sampling, generate
from stages.lm.nar import Refinement, refine
from stages.randomness import derive_seed
from stages.synthesis.model import SpeechModel
from stages.synthesis.prompt import Prompt
from stages.text.normalizer import normalize

log = logging.getLogger("halle.synth")

SYNTHETIC = "synthetic speech made by halle"  # in the metadata of all audio that is spoken
MAX_TEXT_OVER_TRAINING = 8  # longer texts than this many times the longest seen are refused


@dataclass(frozen=True)
class Speech:
    """`waveform` [samples] holds the decoded prompt and then the speech; `report` says how it came about.

    `codes` [codebooks, frames] are those that the AR wrote, the prompt's included.
    """

    waveform: np.ndarray
    codes: np.ndarray
    sample_rate: int
    prompt_samples: int
    stop_reason: str
    report: dict

    @property
    def generated(self) -> np.ndarray:
        """The speech without the prompt, [samples]."""
        return self.waveform[self.prompt_samples:]

    @property
    def seconds(self) -> float:
        return len(self.generated) / self.sample_rate


class SpeechPipeline:
    """Speak texts with one loaded model. The same seed, text and prompt give the same samples on a device."""

    def __init__(self, model: SpeechModel, config: SpeechConfig):
        self.model, self.config = model, config

    def speak(self, text: str, prompt: Prompt, seed: int) -> Speech:
        """Speak `text` after `prompt`. Raises `UsageError` when nothing is left of the text to speak."""
        tokens = self.text_tokens(prompt.text, text)
        generators = {name: torch.Generator().manual_seed(derive_seed(seed, name)) for name in ("ar", "nar")}
        watch = _Stopwatch()
        generation = self._write(tokens, prompt, generators["ar"])
        watch.lap("ar_seconds")
        streams = self._refine(tokens, generation.codes, prompt, generators["nar"])
        watch.lap("nar_seconds")
        waveform = self._decode(streams)
        watch.lap("decode_seconds")
        prompt_samples = min(len(prompt.waveform), len(waveform))
        seconds = (len(waveform) - prompt_samples) / self.model.codec.sample_rate
        report = {
            "stop_reason": generation.stop_reason,
            "seed": seed,
            "prompt_seconds": round(prompt_samples / self.model.codec.sample_rate, 4),
            "speech_seconds": round(seconds, 4),
            "text_tokens": len(tokens),
            "frames": generation.codes.shape[-1] - self._prompt_codes(prompt).shape[-1],
            "ar_steps": generation.steps,
            **watch.laps,
            "real_time_factor": round(sum(watch.laps.values()) / seconds, 4) if seconds else None,
        }
        codes = generation.codes.cpu().numpy()
        return Speech(waveform, codes, self.model.codec.sample_rate, prompt_samples, generation.stop_reason, report)

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

    def max_frames(self) -> int:
        """Longest speech, in frames of the lowest stream: the setting, else what the AR was trained on."""
        lowest = self.model.codec.hierarchy.lowest
        if self.config.max_seconds is not None:
            return max(1, round(self.config.max_seconds * lowest.frame_rate))
        return self.model.max_frames

    def _prompt_codes(self, prompt: Prompt) -> Tensor:
        lowest = self.model.codec.hierarchy.lowest
        return prompt.streams[lowest.name][0, : self.model.ar.config.num_codebooks]

    def _write(self, tokens: list[int], prompt: Prompt, generator: torch.Generator) -> Generation:
        sampling = Sampling(max_frames=self.max_frames(), min_frames=1, temperature=self.config.sampling.temperature,
                            top_k=self.config.sampling.top_k, top_p=self.config.sampling.top_p)
        text = torch.tensor(tokens, device=self.model.device)
        return generate(self.model.ar, text, self._prompt_codes(prompt), sampling, generator)

    def _refine(self, tokens: list[int], codes: Tensor, prompt: Prompt, generator: torch.Generator):
        text = torch.tensor([tokens], device=self.model.device)
        return refine(self.model.nar, self.model.codec.hierarchy, codes[None], text, prompt.streams,
                      self._windows(), generator)

    def _windows(self) -> Refinement:
        rate = self.model.codec.hierarchy.frame_rate
        seconds = self.config.window_seconds or self.model.window_seconds
        window = None if seconds is None else max(1, round(seconds * rate))
        slide = max(1, round(self.config.slide_seconds * rate))
        return Refinement(
            window_frames=window,
            slide_frames=None if window is None else min(window, slide),
            window_mode=self.config.window_mode,
            temperature=self.config.sampling.nar_temperature,
            prompt_frames=max(1, round(self.model.nar_prompt_seconds * rate)),
        )

    @torch.inference_mode()
    def _decode(self, streams: dict[str, Tensor]) -> np.ndarray:
        return self.model.codec.decode(streams)[0, 0].float().clamp(-1, 1).cpu().numpy()


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 4)
        self._last = now
