"""A model that speaks, at the smallest size and untrained, and a generation that ends when its text is spoken."""

from __future__ import annotations

import torch
from tiny_tokens import tiny_codec

from stages.config.models import ARConfig, NARConfig, TransformerConfig
from stages.config.stage_configs import SynthConfig
from stages.lm.ar import ARModel
from stages.lm.generate import Generation
from stages.lm.nar import NARModel
from stages.synthesis import pipeline as pipeline_module
from stages.synthesis.model import SpeechModel
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import Prompt, encode_prompt
from stages.text.tokenizer import TextTokenizer

TINY = TransformerConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=32)
TEXTS = ["Good evening, and thank you for coming.", "Behind the school there is a garden; it is old.",
         "Who did all of this work? The children did!", "one two five dollars mister smith zqxjv"]
SENTENCES = tuple(f"Number {word} is the old garden, and it is behind the school."
                  for word in "one two three four five six seven eight".split())
LONG = " ".join(SENTENCES)


def tiny_model(max_seconds: float = 8.0, max_text_tokens: int = 160) -> SpeechModel:
    """The model was trained on utterances of these lengths, it believes."""
    codec = tiny_codec("halle")
    tokenizer = TextTokenizer.train([text.lower() for text in TEXTS], vocab_size=60)
    torch.manual_seed(0)
    ar = ARModel(ARConfig(transformer=TINY, num_codebooks=2, codebook_size=16, text_vocab_size=60))
    nar = NARModel(NARConfig(transformer=TINY, num_levels=codec.hierarchy.num_levels, codebook_size=16,
                             latent_dim=codec.latent_dim, text_vocab_size=60))
    return SpeechModel(codec=codec, ar=ar.eval(), nar=nar.eval(), text_tokenizer=tokenizer, system="halle",
                       max_frames=round(max_seconds * codec.hierarchy.lowest.frame_rate),
                       max_text_tokens=max_text_tokens, window_seconds=4.0, nar_prompt_seconds=1.0, loudness_db=None,
                       fingerprints={})


def tiny_pipeline(model: SpeechModel | None = None, improve=None, **settings) -> SpeechPipeline:
    return SpeechPipeline(model or tiny_model(), SynthConfig(carry_seconds=0.5, **settings), improve)


def tiny_prompt(model: SpeechModel, seconds: float = 1.0, text: str = TEXTS[0]) -> Prompt:
    sound = torch.randn(round(seconds * model.codec.sample_rate), generator=torch.Generator().manual_seed(5))
    return encode_prompt((0.1 * sound).numpy(), text, model.codec)


def say_in_time(monkeypatch, model: SpeechModel, frames: int = 40) -> list[int]:
    """Let the AR write random codes of 8..15 and end after `frames`; a text with a `z` in it never ends.

    Return the number of texts in each batch, filled as they are spoken.
    """
    batches, endless = [], model.text_tokenizer.entries.index("z")

    def generate(ar, texts, prompts, sampling, generators, on_step=None, **options):
        batches.append(len(texts))
        return [_generation(prompt, endless in text.tolist(), frames, sampling.max_frames, generator)
                for text, prompt, generator in zip(texts, prompts, generators, strict=True)]

    monkeypatch.setattr(pipeline_module, "generate_batch", generate)
    return batches


def _generation(prompt, endless: bool, frames: int, max_frames: int, generator: torch.Generator) -> Generation:
    written = max_frames if endless else min(frames, max_frames)
    codes = torch.randint(8, 16, (prompt.shape[0], written), generator=generator)
    reason = "end" if written == frames and not endless else "max_frames"
    return Generation(torch.cat([prompt, codes], dim=1), reason, written, codes.float())
