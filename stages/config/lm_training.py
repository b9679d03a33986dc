"""How the language models are trained, for `train-ar` and `train-nar` alike."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.config.run_config import TrainingConfig, running


class LMTrainingConfig(TrainingConfig):
    """AdamW, 1e-4 annealed along a cosine (section 7.1); the rest is inferred from MusicGen."""

    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="adamw, as the paper; muon (ours): Muon for the linear layers of the blocks")
    muon_rate: float = Field(3.0, gt=0, description="Muon's learning rate over the one that the rest has")
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = Field(0.1, ge=0)
    batch_tokens: int = Field(60_000, ge=1, description="tokens of a step, padding counted, over all processes; text "
                                                        "that only a pointer reads is not counted")
    checkpoint_activations: bool = running(
        False, description="compute activations again in the backward pass: a fraction of the memory, more time")
    compile: bool = running(False, description="compile the transformer's blocks with torch.compile")
    fsdp: bool = running(False, description="divide blocks, gradients and Adam's averages among the processes (FSDP2)")
    validation_utterances: int = running(3, ge=0, description="validation texts that are spoken, given a codec")
    samples_every: int | None = running(
        None, ge=0, description="steps from one speaking to the next, at validations; by default at all, 0 for never")
    transcriber: str | None = running("pocketsphinx", description="recogniser of what is spoken; null for none")

    @model_validator(mode="after")
    def _check_optimizer(self) -> LMTrainingConfig:
        if self.optimizer == "muon" and self.fsdp:
            raise ValueError("optimizer muon needs whole matrices: expected it without fsdp, or set optimizer to adamw")
        return self
