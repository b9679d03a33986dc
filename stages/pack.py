"""`halle pack`: assemble codec, AR and NAR into the model folder that `synth` and `eval` take."""

from __future__ import annotations

from pathlib import Path

from stages.artifacts.checkpoint import Checkpoint, exported_tensors, load_checkpoint, save_checkpoint
from stages.artifacts.storage import FORMAT_VERSION, staged_folder, write_json
from stages.codec.registry import codec_fingerprint, load_codec
from stages.errors import UsageError
from stages.synthesis.model import MODEL_FILE, check_belonging


def run(codec: str, ar: str, nar: str, out: str) -> dict:
    """Copy the parts, without trainer state, into `out`; refuse parts that do not belong together."""
    target = Path(out)
    if target.exists() and not target.is_dir():
        raise UsageError(f"expected a folder after --out, got the file `{target}`", "choose another --out")
    if target.exists() and any(target.iterdir()) and not (target / MODEL_FILE).is_file():
        raise UsageError(f"`{target}` is not empty and is no model folder", "choose another --out")
    parts = {"ar": load_checkpoint(ar, "ar"), "nar": load_checkpoint(nar, "nar")}
    loaded_codec = load_codec(codec)
    fingerprint = codec_fingerprint(loaded_codec)
    check_belonging(fingerprint, parts["ar"], parts["nar"])
    with staged_folder(target) as temporary:
        save_checkpoint(temporary / "codec", "codec", loaded_codec.export_config(),
                        exported_tensors(loaded_codec), {})
        for name, part in parts.items():
            save_checkpoint(temporary / name, part.kind, part.architecture, part.tensors, part.parents)
        description = _describe(loaded_codec, fingerprint, parts)
        write_json(temporary / MODEL_FILE, description)
    return {"model": str(target), **{key: description[key] for key in ("system", "bits_per_second", "parameters")},
            "megabytes": round(sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) / 1e6, 1)}


def _describe(codec, fingerprint: str, parts: dict[str, Checkpoint]) -> dict:
    return {
        "format_version": FORMAT_VERSION,
        "system": parts["ar"].architecture["system"],
        "sample_rate": codec.sample_rate,
        "bits_per_second": codec.bits_per_second,
        "frame_rates": {spec.name: spec.frame_rate for spec in codec.transmitted},
        "fingerprints": {"codec": fingerprint, **{name: part.fingerprint for name, part in parts.items()}},
        "parameters": {"codec": sum(p.numel() for p in codec.parameters()),
                       **{name: sum(t.numel() for t in part.tensors.values()) for name, part in parts.items()}},
    }
