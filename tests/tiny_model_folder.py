"""A model folder that `synth` speaks with, at the smallest size and untrained: packed in a moment, without training."""

from __future__ import annotations

from pathlib import Path

from tiny_voice import tiny_model

from stages import pack
from stages.artifacts.checkpoint import exported_tensors, save_checkpoint
from stages.codec.registry import codec_fingerprint
from stages.reports.model_card import About


def tiny_parts(folder: Path) -> tuple[str, str, str]:
    """Write codec, AR and NAR that belong together, as their stages would, and return their folders."""
    model = tiny_model(max_seconds=2.0)
    codec, lowest = model.codec, model.codec.hierarchy.lowest
    parents = {"codec": codec_fingerprint(codec), "text_tokenizer": "t" * 64, "data": "d" * 64}
    save_checkpoint(folder / "codec", "codec", codec.export_config(), exported_tensors(codec), {"data": "d" * 64})
    ar = {"system": "halle", "model": model.ar.config.model_dump(mode="json"), "stream": lowest.name,
          "frame_rate": lowest.frame_rate, "max_frames": model.max_frames, "max_text_tokens": model.max_text_tokens,
          "loudness_db": None, "text_tokenizer_json": model.text_tokenizer.to_json()}
    nar = {"system": "halle", "model": model.nar.config.model_dump(mode="json"), "window_seconds": 4.0,
           "prompt_seconds": 1.0}
    for kind, architecture, network in (("ar", ar, model.ar), ("nar", nar, model.nar)):
        save_checkpoint(folder / kind, kind, architecture, exported_tensors(network), parents)
    return str(folder / "codec"), str(folder / "ar"), str(folder / "nar")


def tiny_model_folder(folder: Path, license_name: str | None = None) -> Path:
    """Pack such parts into `folder`."""
    pack.run(*tiny_parts(folder.parent / f"{folder.name}-parts"), str(folder), about=About(license=license_name))
    return folder
