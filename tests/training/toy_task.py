"""The smallest task of the training loop, and a run of it."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from torch import nn

from stages.artifacts.checkpoint import list_checkpoints
from stages.config.stage_configs import RunConfig, TrainingConfig
from stages.training.loop import Run, train_once


class ToyConfig(RunConfig):
    training: TrainingConfig = TrainingConfig(steps=10, learning_rate=0.01, log_every=2, save_every=3, validate_every=4,
                                              ema_decay=0.9, schedule="cosine", warmup_steps=2)


class ToyTask:
    """A line through noisy points, with dropout and a running buffer so that every kind of state matters."""

    def __init__(self, config: ToyConfig, at_step=None):
        torch.manual_seed(config.seed)
        self.networks = {"model": nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))}
        self.optimizers = {"model": torch.optim.AdamW(self.networks["model"].parameters())}
        self.at_step = at_step or {}
        self.prepared = 0
        self.steps_done = 0

    def prepare(self, run):
        self.prepared += 1

    def batch(self, step, micro, run):
        generator = torch.Generator().manual_seed(1000 * step + micro)
        return torch.randn(16, 4, generator=generator)

    def train_step(self, batch, run):
        if run.step in self.at_step:
            self.at_step[run.step]()
        factor = self.at_step.get("factor", {}).get(run.step, 1.0)
        loss = (self.networks["model"](batch) - batch.sum(1, keepdim=True)).square().mean() * factor
        run.backward(loss)
        self.steps_done += 1
        return {"loss": loss}

    def validate(self, run):
        weight = float(self.networks["model"][0].weight.sum())
        return {"weight": weight, "weight.part": weight}

    def identity(self):
        return "ar", {"toy": True}, {}


def toy_run(out: Path, steps: int = 10, at_step=None, report=None, make_task=ToyTask, **changes):
    training = ToyConfig().training.model_copy(update={"steps": steps, **changes})
    config = ToyConfig(out=str(out), training=training, device="cpu")
    result, task = train_once(Run(config), "train-ar", config, {}, lambda: make_task(config, at_step),
                              report=report)
    return task, result


def final_bytes(out: Path) -> bytes:
    folder = list_checkpoints(out)[-1][1]
    return (folder / "model.safetensors").read_bytes() + (folder / "trainer_state/state.safetensors").read_bytes()


def send(number):
    """Return a function that sends this process the signal the first time it is called."""
    sent = []
    return lambda: sent or (sent.append(number), signal.raise_signal(number))
