"""How fast and how large our codec is, beside the `encodec` package with the same sizes and weights: `make bench`.

    plain RVQ   encode + decode of the paper's codec, against EncodecModel as the package makes it, and against one
                whose weight norm has been removed by torch's `remove_weight_norm`
    MReQ        the same autoencoder around Table 1's quantizer, against the same peer
    memory      what encoding and decoding a minute adds to the process at its peak
    tokenize    `halle tokenize` with the codec that ships, as a multiple of real time

All sides take turns in one run, and a ratio is the median over the turns, so that other programs disturb it little.
Speed is in CPU seconds of one thread. These are measurements, not tests: nothing here can fail.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import encodec.modules
import encodec.quantization
import numpy as np
import psutil
import torch
from encodec.model import EncodecModel
from torch import Tensor, nn

from stages import tokenize_corpus
from stages.artifacts.manifest import write_manifest
from stages.audio.io import write_audio
from stages.codec.inference import for_inference
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.residual import ResidualCodec
from stages.config.models import CodecConfig, MRVQConfig
from stages.config.stage_configs import TokenizeConfig
from stages.synthesis.model import PACKAGED_MODEL

SHAPES = ((1, 3.0), (1, 10.0), (8, 1.0))  # clips, seconds of each
MEMORY_SECONDS = 60.0
Codec = Callable[[Tensor], object]  # encodes and decodes a waveform


def build_peer(config: CodecConfig) -> EncodecModel:
    """Return the package's own model with the sizes of `config` and random codebooks."""
    seanet, quantizer = config.seanet, config.quantizer
    sizes = dict(n_filters=seanet.base_filters, dimension=seanet.latent_dim, ratios=list(seanet.ratios),
                 causal=seanet.causal, pad_mode=seanet.pad_mode, true_skip=seanet.true_skip, lstm=seanet.lstm_layers)
    vq = encodec.quantization.ResidualVectorQuantizer(seanet.latent_dim, config.num_codebooks, quantizer.codebook_size)
    for layer in vq.vq.layers:
        layer._codebook.embed.normal_(std=0.1)
    encoder, decoder = encodec.modules.SEANetEncoder(**sizes), encodec.modules.SEANetDecoder(**sizes)
    return EncodecModel(encoder, decoder, vq, [config.bits_per_second / 1000], seanet.sample_rate, 1).eval()


def remove_weight_norm(peer: EncodecModel) -> EncodecModel:
    for module in [module for module in peer.modules() if hasattr(module, "weight_g")]:
        nn.utils.remove_weight_norm(module)
    return peer


def build_ours(config: CodecConfig, peer: EncodecModel) -> ResidualCodec:
    """Return our codec with the peer's weights, ready for inference."""
    codec = ResidualCodec(config)
    codec.autoencoder.encoder.load_state_dict(peer.encoder.state_dict())
    codec.autoencoder.decoder.load_state_dict(peer.decoder.state_dict())
    for codebook, layer in zip(codec.quantizer.codebooks, peer.quantizer.vq.layers, strict=True):
        codebook.set_entries(layer.codebook)
    return codec.eval()


def round_trip(codec: nn.Module) -> Codec:
    return lambda waveform: codec.decode(codec.encode(waveform))


@torch.inference_mode()
def take_turns(sides: dict[str, Codec], waveform: Tensor, turns: int) -> dict[str, list[float]]:
    """Return CPU seconds of every side at every turn; the first turn warms up and is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns + 1):
        for name, codec in sides.items():
            begun = time.process_time()
            codec(waveform)
            seconds[name].append(time.process_time() - begun)
    return {name: found[1:] for name, found in seconds.items()}


def compare_speed(turns: int) -> None:
    config = CodecConfig()
    torch.manual_seed(0)
    peer = build_peer(config)
    ours = for_inference(build_ours(config, peer))
    mreq = MultiResolutionCodec.from_teacher(build_ours(config, peer), MRVQConfig()).eval()
    waveform = 0.1 * torch.randn(1, 1, 72_000)
    agree = (peer.encode(waveform)[0][0] == ours.encode(waveform)["rvq"]).double().mean()
    folded = remove_weight_norm(build_peer(config))
    sides = {"encodec": round_trip(peer), "encodec, weight norm removed": round_trip(folded),
             "ours, plain RVQ": round_trip(ours), "ours, MReQ": round_trip(for_inference(mreq))}
    print(f"encode + decode, one thread, median of {turns} turns; same codes as the package: {agree:.2%}")
    for clips, length in SHAPES:
        seconds = take_turns(sides, 0.1 * torch.randn(clips, 1, round(24_000 * length)), turns)
        for name, found in seconds.items():
            multiple = clips * length / statistics.median(found)
            ratios = [statistics.median(theirs / own for theirs, own in zip(seconds[peer_name], found, strict=True))
                      for peer_name in list(sides)[:2]]
            print(f"  {clips} x {length:4.1f} s  {name:29s} {multiple:6.1f} x real time"
                  f"   {ratios[0]:.3f} of encodec   {ratios[1]:.3f} without its weight norm")


def compare_memory() -> None:
    """A process for each side, so that neither finds what the other has left."""
    print(f"peak memory added by encode + decode of {MEMORY_SECONDS:g} s")
    for side in ("encodec", "ours"):
        result = subprocess.run([sys.executable, __file__, "--peak", side], capture_output=True, text=True,
                                encoding="utf-8", check=True)
        print(f"  {side:9s} {float(result.stdout):6.0f} MiB")


@torch.inference_mode()
def peak_of(side: str) -> float:
    """Return by how many MiB a round trip raises this process's memory, looked at every few milliseconds."""
    config = CodecConfig()
    peer = build_peer(config)
    codec = round_trip(peer if side == "encodec" else for_inference(build_ours(config, peer)))
    codec(torch.zeros(1, 1, 24_000))
    waveform = 0.1 * torch.randn(1, 1, round(24_000 * MEMORY_SECONDS))
    process, seen, done = psutil.Process(), [], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    codec(waveform)
    done.set()
    watcher.join()
    return (max(seen) - before) / 2**20


def measure_tokenize(minutes: float, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seconds = make_corpus(Path(folder) / "data", 60 * minutes)
        config = TokenizeConfig(codec=str(PACKAGED_MODEL / "codec"), data=f"{folder}/data",
                                out=f"{folder}/tokens", device="cpu", workers=workers)
        torch.set_num_threads(workers)
        begun, cpu = time.perf_counter(), time.process_time()
        tokenize_corpus.run(config)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(f"halle tokenize, the codec that ships, {seconds / 60:.0f} minutes of FLAC, {workers} threads")
    print(f"  {seconds / wall:.0f} x real time by the clock, {seconds / cpu:.0f} x for each processor's second of work")
    print(f"  ({psutil.getloadavg()[0]:.1f} programs wanted the {os.cpu_count()} processors in the last minute)")


def make_corpus(folder: Path, seconds: float) -> float:
    """Write utterances of 3 to 30 s of noise, `seconds` in all at least, and return their seconds."""
    generator, rows, total = np.random.default_rng(0), [], 0.0
    while total < seconds:
        samples = int(generator.integers(3 * 24_000, 30 * 24_000))
        name = f"{len(rows)}.flac"
        write_audio(folder / name, generator.normal(0, 0.1, samples).astype(np.float32), 24_000)
        rows.append({"id": f"u{len(rows)}", "audio": name, "duration": samples / 24_000, "speaker": "a",
                     "text": "the same words every time", "split": "train"})  # fmt: skip
        total += samples / 24_000
    write_manifest(folder, rows)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--minutes", type=float, default=20.0, help="audio to tokenize")
    parser.add_argument("--workers", type=int, default=2, help="threads of tokenize")
    parser.add_argument("--peak", choices=("encodec", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the package's weight norm is deprecated
    torch.set_num_threads(1)
    if options.peak:
        print(peak_of(options.peak))
        return
    compare_speed(options.turns)
    compare_memory()
    measure_tokenize(options.minutes, options.workers)


if __name__ == "__main__":
    main()
