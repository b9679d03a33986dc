"""How much GPU memory a training step of a language model takes, counted without a GPU: `python training_memory.py`.

Counted as the planner of the trainers does (stages/planning/step_cost.py): activations, weights in fp32 and their bf16
copies, gradients and the optimizer's moments are in it; the CUDA context, the allocator's slack and the codec of the
NAR are not.
"""

from __future__ import annotations

from stages.config.lm_training import LMTrainingConfig
from stages.config.models import ARConfig, NARConfig
from stages.config.resolve import resolve
from stages.planning.language_models import ar_cost, nar_cost
from stages.planning.step_cost import GIB, StepCost

LATENT_RATE = 48.0
TEXT_TOKENS_A_SECOND = 933 / 90  # Table 2: the longest text of train-90s


def count_ar(config: ARConfig, training: LMTrainingConfig, batch_tokens: int, seconds: float, frame_rate: float,
             num_codebooks: int) -> tuple[StepCost, int]:
    """Count a batch of utterances of `seconds`, as many as the budget takes; return the tokens too."""
    text, frames = round(TEXT_TOKENS_A_SECOND * seconds), round(frame_rate * seconds)
    width = text + frames + num_codebooks
    items = max(1, batch_tokens // width)
    model = config.model_copy(update={"num_codebooks": num_codebooks})
    return ar_cost(model, training, items, text, frames), items * width


def count_nar(config: NARConfig, training: LMTrainingConfig, batch_tokens: int, seconds: float,
              window_seconds: float | None) -> tuple[StepCost, int]:
    """Count clips of `window_seconds` behind prompts of 3 s, or whole utterances behind their text (VALL-E)."""
    text, prompt = round(TEXT_TOKENS_A_SECOND * seconds), round(3 * LATENT_RATE)
    frames = round(LATENT_RATE * min(seconds - 3, window_seconds or seconds))
    width = text + prompt + frames
    items = max(1, batch_tokens // width)
    model = config.model_copy(update={"text_mode": "cross" if window_seconds else "prefix"})
    return nar_cost(model, training, items, text, frames, prompt), items * width


def count_preset(preset: str, processes: int = 1) -> dict[str, tuple[StepCost, int]]:
    """Return the cost and tokens of one process for each model of a preset, at its longest utterances."""
    ar, nar = resolve("train-ar", preset), resolve("train-nar", preset)
    ar_tokens, nar_tokens = (each.training.batch_tokens // each.training.accumulation // processes
                             for each in (ar, nar))
    return {
        "HALL-E AR, 90 s": count_ar(ar.model, ar.training, ar_tokens, 90.0, 8.0, 6),
        "VALL-E AR, 28 s": count_ar(ar.model, ar.training, ar_tokens, 28.0, 48.0, 1),
        "VALL-E AR, 90 s": count_ar(ar.model, ar.training, ar_tokens, 90.0, 48.0, 1),
        "HALL-E NAR, clips of 90 s": count_nar(nar.model, nar.training, nar_tokens, 90.0, nar.window_seconds),
        "VALL-E NAR, 28 s": count_nar(nar.model, nar.training, nar_tokens, 28.0, None),
    }


def main() -> None:
    for preset, processes in (("single-gpu", 1), ("paper", 4)):
        print(f"\n{preset}, one of {processes} processes\n")
        print("| model | parameters, M | tokens | peak, GiB | of it between steps |\n|---|---|---|---|---|")
        for name, (cost, tokens) in count_preset(preset, processes).items():
            print(f"| {name} | {cost.parameters / 1e6:.0f} | {tokens:,} | {cost.peak() / GIB:.1f} "
                  f"| {cost.resident / GIB:.1f} |")


if __name__ == "__main__":
    main()
