"""Make the artifacts that every later version must read: `python tests/artifacts/make_kept.py`.

It writes tests/artifacts/kept/v<format_version>, once for each format, and refuses to do it again. Made again
by later code, they would only show that it reads what it writes itself.
"""

from __future__ import annotations

import sys
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from stages import pack
from stages.artifacts.checkpoint import save_checkpoint
from stages.artifacts.manifest import write_manifest
from stages.artifacts.run_dir import PROVENANCE, MetricsLog, claim_output
from stages.artifacts.storage import FORMAT_VERSION, read_json, write_checksums, write_json, write_jsonl
from stages.artifacts.token_store import TEXT_TOKENIZER_FILE, StreamInfo, TokenStoreWriter, TokenUtterance
from stages.audio.io import write_audio
from stages.codec.base import Codec
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.registry import codec_fingerprint, export_codec, load_codec
from stages.codec.residual import ResidualCodec
from stages.config.models import (
    ARConfig,
    BlockConfig,
    CodecConfig,
    MRVQConfig,
    NARConfig,
    QuantizerConfig,
    SEANetConfig,
    SpectralConfig,
    TransformerConfig,
)
from stages.config.resolve import resolve
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.text.tokenizer import TextTokenizer

TEXTS = ["the first line is read aloud", "another line follows it"]
SIZE = 8  # entries a codebook
BLOCKS = (BlockConfig(stride=2, pre=1, quant=2, post=1), BlockConfig(stride=1, pre=2, quant=0, post=0))
TRANSFORMER = TransformerConfig(dim=8, num_heads=2, num_layers=1, ffn_dim=8)


def make_codec() -> MultiResolutionCodec:
    torch.manual_seed(1)
    teacher = ResidualCodec(CodecConfig(
        seanet=SEANetConfig(base_filters=1, compress=1, latent_dim=4, lstm_layers=0), num_codebooks=3,
        quantizer=QuantizerConfig(codebook_size=SIZE, kmeans_iterations=3)))  # fmt: skip
    teacher.quantizer.initialise(torch.randn(200, 4))
    codec = MultiResolutionCodec.from_teacher(teacher, MRVQConfig(blocks=BLOCKS, lstm_layers=1))
    codec.mrvq.initialise(torch.randn(16, 4, 48))
    return codec.eval()


def make_plain_codec() -> ResidualCodec:
    """A codec for the one-file export: few tensors, of which a .pt file makes many bytes each."""
    torch.manual_seed(3)
    codec = ResidualCodec(CodecConfig(
        arch="spectral", num_codebooks=2, quantizer=QuantizerConfig(codebook_size=SIZE, kmeans_iterations=3),
        spectral=SpectralConfig(hop_length=100, spectra_per_latent=2, window_length=100, latent_dim=4, channels=2,
                                ffn_dim=2, encoder_blocks=1, decoder_blocks=1)))  # fmt: skip
    codec.quantizer.initialise(torch.randn(200, 4))
    return codec.eval()


def tone(seconds: float, hertz: float) -> np.ndarray:
    return (0.25 * np.sin(2 * np.pi * hertz * np.arange(round(24_000 * seconds)) / 24_000)).astype(np.float32)


def make_manifest(folder: Path) -> None:
    rows = []
    for index, text in enumerate(TEXTS):
        write_audio(folder / f"clips/u{index}.flac", tone(0.25, 200 + 100 * index), 24_000)
        rows.append({"id": f"u{index}", "audio": f"clips/u{index}.flac", "start": 0.0, "duration": 0.25,
                     "speaker": "tone", "text": text, "split": ("train", "test")[index], "license": "CC0-1.0"})
    write_manifest(folder, rows)


def make_store(folder: Path, codec: Codec, tokenizer: TextTokenizer) -> None:
    writer = TokenStoreWriter(folder, [StreamInfo(**asdict(spec)) for spec in codec.streams])
    utterances = []
    for index, text in enumerate(TEXTS):
        samples = (3 + index) * codec.alignment
        codes = codec.encode_all(torch.from_numpy(tone(samples / 24_000, 200 + 100 * index))[None, None])
        utterances.append(TokenUtterance(
            id=f"u{index}", duration=samples / 24_000, num_samples=samples, speaker="tone", text=text,
            split=("train", "validation")[index], text_tokens=np.array(tokenizer.encode(text)),
            codes={spec.name: codes[spec.name][0].T.numpy() for spec in codec.streams}))  # fmt: skip
    writer.write_shard(0, utterances)
    tokenizer.save(folder / TEXT_TOKENIZER_FILE)
    writer.finish(1, {"codec_fingerprint": codec_fingerprint(codec), "bits_per_second": codec.bits_per_second,
                      "text_tokenizer_fingerprint": tokenizer.fingerprint})


def make_models(codec: Codec, tokenizer: TextTokenizer) -> tuple[ARModel, NARModel]:
    torch.manual_seed(2)
    lowest = codec.hierarchy.lowest.num_codebooks
    ar = ARModel(ARConfig(transformer=TRANSFORMER, num_codebooks=lowest, codebook_size=SIZE,
                          text_vocab_size=tokenizer.vocab_size))
    nar = NARModel(NARConfig(transformer=TRANSFORMER, num_levels=codec.hierarchy.num_levels, codebook_size=SIZE,
                             latent_dim=4, text_vocab_size=tokenizer.vocab_size))
    return ar.eval(), nar.eval()


def make_runs(run: Path, nar_folder: Path, codec: Codec, tokenizer: TextTokenizer) -> None:
    """Write the AR model as a run of two steps and the NAR model as a checkpoint."""
    ar, nar = make_models(codec, tokenizer)
    parents = {"tokens": "0" * 64, "codec": codec_fingerprint(codec), "text_tokenizer": tokenizer.fingerprint,
               "init": "none"}
    common = {"system": "halle", "text_tokenizer_json": tokenizer.to_json()}
    config = resolve("train-ar", "smoke", options={"out": "run", "training.steps": 2})
    with chdir(run.parent), claim_output("train-ar", config, parents) as output:
        log = MetricsLog(output.path, 0)
        log.add(2, {"loss": 2.5, "seconds_per_step": 0.25})
        save_checkpoint(output.path / "checkpoints" / "step-00000002", "ar", {
            **common, "model": ar.config.model_dump(mode="json"), "stream": "quant1", "frame_rate": 24.0,
            "max_frames": 8, "max_text_tokens": 30, "loudness_db": None}, ar.state_dict(), parents,
            ({"numbers": torch.arange(3.0)}, {"step": 2, "skipped_in_a_row": 0}))
        made = read_json(output.path / PROVENANCE)
        write_json(output.path / PROVENANCE, {**made, "platform": "some machine"})
        output.finish()
    for file in ("log.txt", ".lock"):
        (run / file).unlink(missing_ok=True)
    save_checkpoint(nar_folder, "nar", {**common, "model": nar.config.model_dump(mode="json"),
                                                 "window_seconds": 1.0, "prompt_seconds": 0.25},
                    nar.state_dict(), parents)


def make_speech(root: Path) -> None:
    write_audio(root / "speech.flac", tone(0.25, 440), 24_000)
    write_json(root / "speech.json", {
        "format_version": 1, "id": "speech", "audio": "speech.flac", "duration": 0.25, "text": TEXTS[0],
        "speaker": "tone", "synthetic": True, "finished": True, "stopped": "the model ended the text", "passes": 1,
        "seed": 0, "prompt": {"file": "tone.flac", "text": TEXTS[1]}, "model": {"codec": "0" * 64}})


def make_evaluation(folder: Path) -> None:
    """Write the part of an evaluation that others read: two items of one system, one of which failed."""
    def entry(value: float, errors: int, status: str) -> dict:
        return {"status": status, "reason": "" if status == "scored" else "no end", "audio": None, "finished": True,
                "metrics": {"wer": {"value": value, "reason": "", "deletions": errors, "words": 4}}}

    rows = [{"id": "u0", "take": 1, "refused": "", "systems": {"model": entry(25.0, 1, "scored")}},
            {"id": "u1", "take": 1, "refused": "", "systems": {"model": entry(100.0, 4, "failed")}}]
    write_jsonl(folder / "items.jsonl", rows)
    score = {"value": 62.5, "denominator": 2, "total": 2, "totals": {"deletions": 5.0, "words": 8.0}}
    write_json(folder / "scores.json", {
        "format_version": 1, "setting": "cross-sentence", "set": {"name": "two", "evaluated": 2},
        "recogniser": {"name": "none", "version": ""},
        "systems": {"model": {"counts": {"scored": 1, "missing": 0, "failed": 1, "unfinished": 0},
                              "scores": {"wer": score}}}})
    write_checksums(folder)


def main(root: Path) -> None:
    torch.set_num_threads(1)
    codec, tokenizer = make_codec(), TextTokenizer.train(TEXTS, vocab_size=40)
    make_manifest(root / "manifest")
    export_codec(make_plain_codec(), root / "codec.pt")
    with TemporaryDirectory() as elsewhere:
        work = Path(elsewhere)
        export_codec(codec, work / "mreq.pt")
        pack.prepare_codec(str(work / "mreq.pt"), half=True).save(work / "codec")
        halved = load_codec(work / "codec")
        make_store(root / "store", halved, tokenizer)
        make_runs(root / "run", work / "nar", halved, tokenizer)
        pack.run(str(work / "codec"), str(root / "run"), str(work / "nar"), str(root / "model"))
    tokenizer.save(root / "text_tokenizer.json")
    make_speech(root)
    make_evaluation(root / "evaluation")


if __name__ == "__main__":
    folder = Path(__file__).parent / "kept" / f"v{FORMAT_VERSION}"
    if folder.exists():
        sys.exit(f"{folder} is there already, and stays as it is")
    folder.mkdir(parents=True)
    main(folder)
    print(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), "bytes")
