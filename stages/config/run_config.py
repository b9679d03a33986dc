"""What the settings of every stage have in common, and those of the training loop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from stages.config.models import Settings


def running(default: Any = ..., **constraints: Any) -> Any:
    """Declare a field that may change between the runs that make one result."""
    return Field(default, json_schema_extra={"running": True}, **constraints)


class RunConfig(Settings):
    """What every stage takes."""

    out: str = running("", description="folder or file to write")
    seed: int = Field(0, ge=0, lt=2**31)
    device: str = running("auto", description="auto, cpu, cuda, cuda:1 or mps")
    restart: bool = running(False, description="move an old result aside and begin again")
    allow_change: tuple[str, ...] = running((), description="identity fields that may differ from the old run's")
    max_bad: str = running("10%", pattern=r"^\d+(\.\d+)?%$|^\d+$", description="bad inputs allowed: a count, or 1%")

    def bad_allowed(self, total: int) -> int:
        """Return how many of `total` inputs `max_bad` lets be bad."""
        if self.max_bad.endswith("%"):
            return int(float(self.max_bad[:-1]) / 100 * total)
        return int(self.max_bad)


Beta = Annotated[float, Field(ge=0, lt=1)]  # of Adam


class TrainingConfig(Settings):
    """Settings of the training loop."""

    steps: int = running(100_000, ge=1)  # section 7.1
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    schedule_steps: int | None = Field(None, ge=1, description="steps of the cosine; by default the number of steps")
    warmup_steps: int = Field(0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(1.0, gt=0, description="largest gradient norm, per optimizer")
    accumulation: int = Field(1, ge=1, description="micro-batches a step")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="moving average of the weights that are exported")
    precision: Literal["fp32", "bf16"] = "fp32"
    try_largest_batch: bool = running(True, description="before step 1, so that too little memory shows at once")
    log_every: int = running(10, ge=1)
    validate_every: int = running(1000, ge=1)
    validation_items: int = running(16, ge=1)
    save_every: int = running(1000, ge=1)
    keep_checkpoints: int = running(2, ge=1)
    on_divergence: Literal["stop", "rollback"] = running(
        "stop", description="what follows steps that are not finite: exit 5, or go on from the last checkpoint with "
        "other data")
    max_rollbacks: int = running(3, ge=1)
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = running("none", description="where curves go too")
