"""How much memory a model of the paper's size takes to load and to speak with: `make bench`.

Peak of a process of its own beyond what its imports take, beside the size of the weights. The model is random and in
float32 on the disk, as training leaves it; 90 s are spoken in one pass. A measurement, not a test.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from generation import PROMPT_SECONDS, QUICK, TOKENS_PER_SECOND, WINDOW_SECONDS, Sizes, make_ar, make_codec, make_nar

from stages.artifacts.checkpoint import save_checkpoint
from stages.codec.registry import codec_fingerprint, export_codec
from stages.config.stage_configs import SpeechConfig
from stages.synthesis.model import load_speech_model
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import Prompt
from stages.text.tokenizer import TextTokenizer


def write_model(folder: Path, sizes: Sizes) -> None:
    """Write a HALL-E of random weights that never ends by itself, in float32, as training leaves it."""
    codec, tokenizer = make_codec("halle"), TextTokenizer.train(["a quick brown fox jumps over the lazy dog"], 40)
    export_codec(codec, folder / "codec.pt")
    parents = {"codec": codec_fingerprint(codec), "text_tokenizer": "random"}
    ar = make_ar(sizes, 6)
    ar.heads[0].bias.data[-1] = -1e4
    save_checkpoint(folder / "ar", "ar", {
        "model": ar.config.model_dump(mode="json"), "system": "halle", "text_tokenizer_json": tokenizer.to_json(),
        "max_frames": 720, "max_text_tokens": 1024, "loudness_db": None,
    }, ar.state_dict(), parents)  # fmt: skip
    del ar
    nar = make_nar(sizes, "cross")
    save_checkpoint(folder / "nar", "nar", {
        "model": nar.config.model_dump(mode="json"), "system": "halle", "window_seconds": WINDOW_SECONDS,
        "prompt_seconds": PROMPT_SECONDS,
    }, nar.state_dict(), parents)  # fmt: skip


def speak_from(folder: Path, seconds: float, precision: str) -> int:
    """Load the model that `write_model` left in `folder` and speak; return the bytes of its weights."""
    paths = {"codec": f"{folder}/codec.pt", "ar": f"{folder}/ar", "nar": f"{folder}/nar"}
    config = SpeechConfig(**paths, precision=precision, max_seconds=seconds, single_pass=True)
    model = load_speech_model(config, torch.device("cpu"))
    waveform = torch.randn(1, 1, round(PROMPT_SECONDS * model.codec.sample_rate)) / 10
    with torch.inference_mode():
        streams = model.codec.encode(waveform)
    prompt = Prompt(waveform[0, 0].numpy(), "a quick brown fox", "given", streams, "noise")
    words = "the lazy dog jumps over a quick brown fox "
    tokens = model.text_tokenizer.encode(words)
    text = words * round(seconds * TOKENS_PER_SECOND / len(tokens))
    speech = SpeechPipeline(model, config).speak(text, prompt, seed=0)
    assert abs(speech.seconds - seconds) < 1, speech.seconds
    files = [folder / "ar" / "model.safetensors", folder / "nar" / "model.safetensors"]
    width = {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    return sum(file.stat().st_size for file in files) // 4 * width + (folder / "codec.pt").stat().st_size


def added_memory(function: Callable[[], object]) -> tuple[float, object]:
    """Return by how many bytes a function raises this process's memory at its peak, and its result."""
    process, seen, done = psutil.Process(), [], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = function()
    finally:
        done.set()
        watcher.join()
    return max(seen, default=before) - before, result


def measure_memory(quick: bool, seconds: float, precision: str) -> None:
    """In a process of its own, which finds nothing that others have left."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), QUICK if quick else Sizes())
        gc.collect()
        command = [sys.executable, __file__, "--peak", folder, "--seconds", str(seconds), "--precision", precision]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
    peak, weights = map(float, result.stdout.split()[-2:])
    print(f"peak memory of loading and speaking {seconds:g} s, {precision}, beyond imports: {peak / 2**20:.0f} MiB, "
          f"{peak / weights:.2f} times the weights ({weights / 2**20:.0f} MiB)   (at most 1.3)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller transformers of the same structure")
    parser.add_argument("--seconds", type=float, default=90.0, help="of speech")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.peak:
        print(*added_memory(lambda: speak_from(Path(options.peak), options.seconds, options.precision)))
    else:
        measure_memory(options.quick, options.seconds, options.precision)


if __name__ == "__main__":
    main()
