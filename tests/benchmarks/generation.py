"""How fast the language models speak at the paper's sizes, with random weights: `make bench`.

    step       a cached step of the AR model: weight bytes a second beside PyTorch's linear layers, and MusicGen's step
    systems    HALL-E beside VALL-E, the same durations forced: the AR alone and the whole synthesis
    long       90 s beside 10 s, for each second of speech
    int8       mean KL divergence of 8-bit weights, of a trained model (--ar RUN --tokens STORE)

Speed is in CPU seconds of this process; sides that are compared take turns. `--quick` takes smaller transformers of
the same structure: it shows that this program runs. These are measurements, not tests: nothing here can fail.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.token_store import open_store
from stages.codec.base import Codec, Streams
from stages.codec.inference import for_inference
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.residual import ResidualCodec
from stages.config.models import ARConfig, CodecConfig, MRVQConfig, NARConfig, QuantizerConfig, TransformerConfig
from stages.config.stage_configs import SpeechConfig
from stages.lm.ar import ARModel
from stages.lm.delay import delay
from stages.lm.generate import Generation, Sampling, generate_batch
from stages.lm.inference import GraphedSteps, load_for_speaking, weight_dtype
from stages.lm.nar import NARModel, Refinement, refine
from stages.lm.pointer import with_advances

PROMPT_SECONDS, WINDOW_SECONDS, LATENT_RATE = 3.0, 28.0, 48.0
TOKENS_PER_SECOND = 8.5  # 150 words a minute, 3.4 tokens each
COLUMNS = 300  # written before the step that is measured: text and prompt


@dataclass(frozen=True)
class Sizes:
    """The transformers that are measured."""

    ar: TransformerConfig = ARConfig().transformer
    nar: TransformerConfig = NARConfig().transformer


QUICK = Sizes(TransformerConfig(dim=320, num_heads=5, num_layers=6, ffn_dim=1280),
              TransformerConfig(dim=256, num_heads=4, num_layers=4, ffn_dim=1024))  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """CPU seconds of one synthesis; the codec's are those of its modules in refinement and of decoding."""

    ar: float
    nar: float
    codec: float

    @property
    def total(self) -> float:
        return self.ar + self.nar + self.codec

    def shares(self) -> str:
        return ", ".join(f"{name} {value / self.total:.0%}" for name, value in vars(self).items())


def default_windows() -> Refinement:
    overlap = SpeechConfig().overlap_seconds
    return Refinement(round(WINDOW_SECONDS * LATENT_RATE), overlap_frames=round(overlap * LATENT_RATE))


@dataclass(frozen=True)
class System:
    """A HALL-E or a VALL-E that can speak."""

    ar: ARModel
    nar: NARModel
    codec: Codec

    def request(self, seconds: float) -> tuple[Streams, Tensor, Tensor, Sampling]:
        """Return a prompt, text as long as what is said in so many seconds, and what the AR is asked."""
        lowest = self.codec.hierarchy.lowest
        with torch.inference_mode():
            prompt = self.codec.encode(torch.randn(1, 1, round(PROMPT_SECONDS * self.codec.sample_rate)) / 10)
        text = torch.randint(258, (round((PROMPT_SECONDS + seconds) * TOKENS_PER_SECOND),))
        frames = round(seconds * lowest.frame_rate)
        return prompt, text, prompt[lowest.name][0, : self.ar.config.num_codebooks], Sampling(frames, frames, top_k=250)

    @torch.inference_mode()
    def render(self, codes: Tensor, text: Tensor, prompt: Streams) -> tuple[float, float]:
        """Refine and decode; return the CPU seconds of the NAR and of the codec."""
        timed, begun = _Timed(self.nar), time.process_time()
        state = refine(timed, self.codec.hierarchy, codes[None], text[None], prompt, default_windows())
        self.codec.decode(state.streams)
        return timed.seconds, time.process_time() - begun - timed.seconds


def speak(systems: dict[str, System], seconds: float) -> dict[str, Parts]:
    """Let systems speak for exactly so long after a prompt, their AR models step by step in turns.

    Memory is what an AR model waits for, and other programs want it now more and now less: a system that runs while
    another rests would be compared with another machine.
    """
    turns, jobs = _Turns(), {}
    for name, system in systems.items():
        prompt, text, known, sampling = system.request(seconds)
        turns.add(name, system.ar, text, known, sampling)
        jobs[name] = text, prompt
    return {name: Parts(ar, *systems[name].render(written.codes, *jobs[name]))
            for name, (written, ar) in turns.finish().items()}


class _Turns:
    """Threads that generate, of which the one that has done the smaller share of its steps is let go on."""

    def __init__(self) -> None:
        self.done: dict[str, float] = {}
        self.results: dict[str, tuple[Generation, float]] = {}
        self.threads: list[threading.Thread] = []
        self.changed = threading.Condition()

    def add(self, name: str, *arguments: object) -> None:
        self.done[name] = 0.0
        self.threads.append(threading.Thread(target=self._generate, args=(name, *arguments)))

    def finish(self) -> dict[str, tuple[Generation, float]]:
        """Run all; return what each generated and its CPU seconds."""
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        return self.results

    def _generate(self, name: str, ar: ARModel, text: Tensor, known: Tensor, sampling: Sampling) -> None:
        steps = sampling.max_frames + ar.config.num_codebooks
        torch.set_num_threads(torch.get_num_threads())  # a thread's own setting
        self._wait(name, 0.0)
        begun = time.thread_time()
        written = generate_batch(ar, [text], [known], sampling, [torch.Generator()],
                                 on_step=lambda: self._wait(name, 1 / steps))[0]  # fmt: skip
        self.results[name] = written, time.thread_time() - begun
        self._wait(name, 2.0)

    def _wait(self, name: str, share: float) -> None:
        with self.changed:
            self.done[name] += share
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.done[name] > 1 or self.done[name] <= min(self.done.values()) + 1e-6)


class _Timed:
    """Counts the CPU seconds inside a NAR model, to tell them from those of the codec's own modules."""

    def __init__(self, nar: NARModel):
        self.nar, self.seconds = nar, 0.0

    def __call__(self, *args: Tensor, **kwargs: Tensor | None) -> Tensor:
        begun = time.process_time()
        result = self.nar(*args, **kwargs)
        self.seconds += time.process_time() - begun
        return result


@torch.no_grad()
def fill(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Give a model on the meta device weights of about the usual size, cheaply."""
    noise = 0.02 * torch.randn(2**20 + 7)
    model = model.to(dtype).to_empty(device="cpu").eval()
    for name, tensor in model.state_dict().items():
        flat = tensor.view(-1)
        for first in range(0, len(flat), len(noise)):
            flat[first : first + len(noise)] = noise[: len(flat) - first]
        if "norm.weight" in name or name == "input_std":
            tensor.fill_(1)
    return model


def make_ar(sizes: Sizes, num_codebooks: int, dtype: torch.dtype = torch.float32, around: nn.Module | None = None
            ) -> ARModel:
    """Return an AR model of random weights, or tables and heads `around` the transformer of another."""
    with torch.device("meta"):
        model = ARModel(ARConfig(transformer=sizes.ar, num_codebooks=num_codebooks))
    if around is not None:
        model.transformer = nn.Identity()
    model = fill(model, dtype)
    if around is not None:
        model.transformer = around
    return model


def make_nar(sizes: Sizes, text_mode: str, dtype: torch.dtype = torch.float32) -> NARModel:
    with torch.device("meta"):
        model = NARModel(NARConfig(transformer=sizes.nar, text_mode=text_mode))
    return fill(model, dtype)


def make_codec(system: str) -> Codec:
    """Return the paper's codec with codebooks of random vectors."""
    torch.manual_seed(0)
    config = CodecConfig(quantizer=QuantizerConfig(kmeans_iterations=1, kmeans_vectors_per_code=1))
    codec = ResidualCodec(config).eval()
    codec.quantizer.initialise(torch.randn(1024, config.seanet.latent_dim))
    if system == "valle":
        return codec
    codec = MultiResolutionCodec.from_teacher(codec, MRVQConfig())
    codec.mrvq.initialise(torch.randn(8, config.seanet.latent_dim, 768))
    return codec.eval()


def ready(model: nn.Module, precision: str) -> nn.Module:
    """Return a model that is in memory already as one that is loaded to speak; its layers are replaced in place."""
    model = model.to(weight_dtype(precision))
    return load_for_speaking(model, _read_nothing, next(model.parameters()).device, precision)


def _read_nothing(name: str) -> torch.Tensor:
    raise KeyError(name)


def make_systems(sizes: Sizes, precision: str) -> dict[str, System]:
    """Return both systems; their AR models share the transformer, which is most of the memory."""
    dtype = weight_dtype(precision)
    halle = make_ar(sizes, 6, dtype)
    valle = make_ar(sizes, 1, dtype, around=halle.transformer)
    systems = {}
    for name, ar, mode in (("halle", halle, "cross"), ("valle", valle, "prefix")):
        nar = ready(make_nar(sizes, mode, dtype), precision)
        systems[name] = System(ready(ar, precision), nar, for_inference(make_codec(name)))
    return systems


def cpu_seconds(function: Callable[[], object]) -> float:
    begun = time.process_time()
    function()
    return time.process_time() - begun


def take_turns(sides: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return CPU seconds of every side at every turn; the first turn warms up and is left out."""
    found = [{name: cpu_seconds(side) for name, side in sides.items()} for _ in range(turns + 1)]
    return {name: [turn[name] for turn in found[1:]] for name in sides}


def weight_bytes(ar: ARModel) -> int:
    """Bytes of what a step reads: the transformer and the heads, not the tables."""
    parts = [*ar.transformer.parameters(), *ar.heads.parameters()]
    return sum(part.numel() * part.element_size() for part in parts)


def open_state(ar: ARModel, capacity: int = COLUMNS + 200):
    text, late = torch.randint(258, (1, COLUMNS - 100)), torch.randint(1024, (1, ar.config.num_codebooks, 99))
    device = ar.text_embedding.weight.device
    lengths = [torch.tensor([item.shape[-1]], device=device) for item in (text, late)]
    return ar.begin(text.to(device), lengths[0], late.to(device), lengths[1], capacity)[1]


def linear_rate(config: TransformerConfig, dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """Return a pass over PyTorch's own linear layers with a block's shapes, too many for the caches, and its bytes."""
    dim, ffn = config.dim, config.ffn_dim
    shapes = [(dim, dim), (dim, 2 * dim), (dim, dim), (dim, ffn), (ffn, dim)] * 6
    layers = [nn.Linear(*shape).to(dtype) for shape in shapes]
    inputs = {width: torch.randn(1, width, dtype=dtype) for width in (dim, ffn)}
    bytes_read = sum(layer.weight.numel() for layer in layers) * layers[0].weight.element_size()

    def read() -> None:
        for layer in layers:
            F.linear(inputs[layer.in_features], layer.weight, layer.bias)

    return read, bytes_read


def musicgen_step(config: TransformerConfig, dtype: torch.dtype) -> Callable[[], object]:
    """Return a step of transformers' model of the same size and streams, behind as many columns."""
    from transformers import MusicgenForCausalLM
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    model = MusicgenForCausalLM(MusicgenDecoderConfig(
        vocab_size=1024, num_codebooks=6, hidden_size=config.dim, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, ffn_dim=config.ffn_dim, dropout=0.0, max_position_embeddings=1024,
    )).to(dtype).eval()  # fmt: skip
    state = {"cache": model(torch.randint(1024, (6, COLUMNS)), use_cache=True).past_key_values}

    def step() -> None:
        state["cache"] = model(torch.randint(1024, (6, 1)), past_key_values=state["cache"],
                               use_cache=True).past_key_values  # fmt: skip

    return step


@torch.inference_mode()
def measure_step(sizes: Sizes, precision: str, turns: int, with_musicgen: bool) -> None:
    dtype = weight_dtype(precision)
    ar = make_ar(sizes, 6, dtype)
    num_bytes = weight_bytes(ar)
    state, column = open_state(ready(ar, precision)), torch.randint(1024, (1, 6))
    read, linear_bytes = linear_rate(sizes.ar, dtype)
    sides = {"ours": lambda: ar.advance(column, state), "linear": read}
    if with_musicgen:
        sides["musicgen"] = musicgen_step(sizes.ar, dtype)
    found = take_turns(sides, turns)
    pairs = zip(found["ours"], found["linear"], strict=True)
    rates = [num_bytes / ours / (linear_bytes / linear) for ours, linear in pairs]
    print(f"AR step, {precision}, {COLUMNS} columns: {1000 * statistics.median(found['ours']):.1f} ms, "
          f"{num_bytes / statistics.median(found['ours']) / 1e9:.1f} GB/s of weights; PyTorch's linear layers "
          f"{linear_bytes / statistics.median(found['linear']) / 1e9:.1f} GB/s")
    print(f"  share of that rate       {statistics.median(rates):.2f}   (reach 0.9)")
    if with_musicgen:
        ratios = [theirs / ours for theirs, ours in zip(found["musicgen"], found["ours"], strict=True)]
        print(f"  transformers' MusicGen {1000 * statistics.median(found['musicgen']):.1f} ms, "
              f"{statistics.median(ratios):.2f} of ours   (reach 0.97)")


@torch.inference_mode()
def measure_gpu(sizes: Sizes, turns: int) -> None:
    """Share of the memory bandwidth, that of a copy, which one step in bfloat16 takes."""
    ar = ready(make_ar(sizes, 6, torch.bfloat16).cuda(), "bf16")
    state, column = open_state(ar, 1024), torch.randint(1024, (1, 6), device="cuda")
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * len(source) / _gpu_seconds(lambda: target.copy_(source), turns)
    steps = {"step by step": lambda: ar.advance(column, state)}
    graphs = GraphedSteps(ar, state)
    steps["CUDA graphs"] = lambda: graphs(column, state)
    for name, step in steps.items():
        rate = weight_bytes(ar) / _gpu_seconds(step, turns)
        print(f"AR step on {torch.cuda.get_device_name()}, bf16, {name}: {weight_bytes(ar) / rate * 1000:.2f} ms, "
              f"{rate / bandwidth:.2f} of {bandwidth / 1e12:.2f} TB/s   (reach 0.6)")


def _gpu_seconds(function: Callable[[], object], turns: int) -> float:
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(turns):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / turns


def measure_systems(sizes: Sizes, precision: str, durations: tuple[float, ...] = (4.0, 10.0)) -> None:
    systems = make_systems(sizes, precision)
    speak(systems, 1.0)
    totals = dict.fromkeys(systems, 0.0)
    for seconds in durations:
        parts = speak(systems, seconds)
        print(f"{seconds:g} s of speech, {precision}: AR of VALL-E / HALL-E {parts['valle'].ar / parts['halle'].ar:.2f}"
              f"   (reach 4.7 at 4 s, 5.2 at 10 s)")
        for name, part in parts.items():
            print(f"  {name} {part.total:6.1f} CPU s: {part.shares()}")
            totals[name] += part.total
    print(f"whole synthesis, these together, {precision}: VALL-E / HALL-E {totals['valle'] / totals['halle']:.2f}"
          "   (reach 2.2)")


def measure_long(sizes: Sizes, precision: str, seconds: float) -> None:
    halle = {"halle": make_systems(sizes, precision)["halle"]}
    short, long = (speak(halle, length)["halle"] for length in (10.0, seconds))
    print(f"HALL-E, {precision}, {seconds:g} s against 10 s, per second of speech: "
          f"{long.total / seconds / (short.total / 10):.2f} times   (at most 1.5); {long.shares()}")


def count_passes(seconds: float = 90.0) -> None:
    paper = Refinement(round(WINDOW_SECONDS * LATENT_RATE), round(5 * LATENT_RATE), window_mode="paper")
    passes = [7 * len(windows.windows(round(seconds * LATENT_RATE))) for windows in (paper, default_windows())]
    print(f"NAR passes for {seconds:g} s: the paper's slide {passes[0]}, by default {passes[1]}, "
          f"{passes[1] / passes[0]:.2f} of them   (at most 0.33)")


@torch.inference_mode()
def measure_divergence(run: str, store: str, precision: str = "int8", num_utterances: int = 20) -> float:
    """Print and return the mean KL divergence, in nats, of step-by-step predictions of true codes."""
    models = []
    for kind in ("fp32", precision):
        checkpoint = load_checkpoint(run, "ar")
        model = ARModel(ARConfig.model_validate(checkpoint.architecture["model"]))
        model.load_state_dict(checkpoint.tensors)
        models.append(ready(model, kind))
    tokens, total, count = open_store(store), 0.0, 0
    for index in range(min(num_utterances, len(tokens))):
        utterance = tokens.utterance(index)
        codes = torch.from_numpy(utterance.codes["quant1"].astype("int64")).T
        text = torch.from_numpy(utterance.text_tokens.astype("int64"))
        if models[0].config.text_pointer:
            codes = with_advances(codes, len(text))
        exact, coarse = (predictions(model, text, codes) for model in models)
        divergence = (exact.exp() * (exact - coarse).nan_to_num(0.0)).sum(-1)
        total, count = total + float(divergence.sum()), count + divergence.numel()
    print(f"{precision} weights, `{run}`: mean KL to fp32 {total / count:.1e} nats over {count:,} predictions"
          "   (at most 2e-3)")
    return total / count


def predictions(ar: ARModel, text: Tensor, codes: Tensor) -> Tensor:
    """Return log-probabilities [steps, streams, classes] of cached steps along true codes [streams, frames].

    Only steps at which every stream has a code to say.
    """
    late = delay(codes[None], ar.fill)
    none = torch.zeros(1, dtype=torch.long)
    logits, state = ar.begin(text[None], torch.tensor([len(text)]), late[..., :0], none, len(text) + late.shape[-1] + 1)
    found = [logits]
    for step in range(late.shape[-1] - ar.num_streams):
        found.append(ar.advance(late[..., step], state))
    return torch.cat(found[ar.num_streams - 1 :]).log_softmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("step", "systems", "long", "int8"), action="append")
    parser.add_argument("--quick", action="store_true", help="smaller transformers of the same structure")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32", help="of systems and long")
    parser.add_argument("--no-musicgen", action="store_true", help="without transformers' model")
    parser.add_argument("--ar", help="a trained AR run, for int8")
    parser.add_argument("--tokens", help="the store it was trained on")
    parser.add_argument("--seconds", type=float, default=90.0, help="of long speech")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    wanted = options.only or ("step", "systems", "long", "int8")
    sizes = QUICK if options.quick else Sizes()
    if "step" in wanted:
        for precision in ("fp32", "bf16"):
            measure_step(sizes, precision, options.turns, not options.no_musicgen)
            gc.collect()
        if torch.cuda.is_available():
            measure_gpu(sizes, options.turns)
        count_passes()
    if "systems" in wanted:
        measure_systems(sizes, options.precision)
    if "long" in wanted:
        measure_long(sizes, options.precision, options.seconds)
    if "int8" in wanted and options.ar and options.tokens:
        measure_divergence(options.ar, options.tokens)
    print(f"({psutil.getloadavg()[0]:.1f} programs wanted the {os.cpu_count()} processors in the last minute)")


if __name__ == "__main__":
    main()
