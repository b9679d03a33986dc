"""`halle synth`: a text read aloud in the voice of a recording, with a report beside the audio."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from stages.artifacts.run_dir import versions
from stages.artifacts.storage import FORMAT_VERSION, decode_utf8, write_json
from stages.audio.io import audio_info, check_suffix, write_audio
from stages.config.stage_configs import SynthConfig
from stages.errors import UnfinishedSpeechError, UsageError
from stages.synthesis.model import find_parts, load_speech_model
from stages.synthesis.pipeline import SYNTHETIC, Speech, SpeechPipeline
from stages.synthesis.prompt import Prompt, PromptLimits, read_prompt
from stages.text.normalizer import normalize
from stages.training.processes import pick_device


def run(config: SynthConfig) -> dict:
    """Speak and write the audio and its report; raise `UnfinishedSpeechError` after writing when the text is not
    finished and that is not allowed."""
    text, out = read_text(config), output_path(config)
    device = pick_device(config.device)
    model = load_speech_model(config, device)
    limits = PromptLimits(config.prompt_seconds, config.max_prompt_seconds)
    prompt = read_prompt(config.prompt, model.codec, limits, config.prompt_text, config.transcriber,
                         model.loudness_db)
    speech = SpeechPipeline(model, config).speak(text, prompt, config.seed)
    write_audio(out, speech.generated, speech.sample_rate, comment=SYNTHETIC)
    report = _report(config, text, prompt, speech, out, device, model.fingerprints)
    write_json(out.with_suffix(".json"), report)
    if speech.stop_reason != "end" and not config.allow_unfinished:
        raise UnfinishedSpeechError(
            f"wrote `{out}`, {speech.seconds:.1f} s, but the text is not finished: {_why(speech, config)}",
            "raise --max-seconds, shorten the text, or accept it with --allow-unfinished")
    return {"speech": str(out), "report": str(out.with_suffix(".json")), "seconds": round(speech.seconds, 2),
            "stopped": _why(speech, config), "real_time_factor": speech.report["real_time_factor"]}


def plan(config: SynthConfig) -> dict:
    """Check the inputs and say what would be read and written."""
    text, out = read_text(config), output_path(config)
    parts = find_parts(config)
    info = audio_info(config.prompt)
    return {"reads": {**parts, "prompt": f"{config.prompt} ({info.duration:.1f} s)",
                      "text": f"{len(text.split())} words"},
            "writes": [str(out), str(out.with_suffix(".json"))]}


def read_text(config: SynthConfig) -> str:
    """Return the text to speak from --say, a file or standard input; refuse an empty one."""
    if (config.text is None) == (config.say is None):
        raise UsageError("expected exactly one of --text FILE and --say TEXT", "--text - reads standard input")
    text, source = (config.say, "--say") if config.say is not None else (_read_file(config.text), config.text)
    if not any(character.isalnum() for character in normalize(text)):
        raise UsageError(f"the text of `{source}` is empty after normalisation", "give some words to speak")
    return text


def _read_file(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"text file `{name}` does not exist", "to speak words given here, use --say") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UsageError(f"text file `{name}` cannot be read: {error.strerror.lower()}") from error
    return decode_utf8(data, name)


def output_path(config: SynthConfig) -> Path:
    """Return --out, else the text file's name with .wav in the current folder."""
    if config.out:
        out = Path(config.out)
        if out.is_dir():
            raise UsageError(f"expected an audio file after --out, got the folder `{out}`", f"use {out / 'speech.wav'}")
    else:
        stem = Path(config.text).stem if config.text not in (None, "-") else "speech"
        out = Path(f"{stem}.wav")
    check_suffix(out)
    return out


def _why(speech: Speech, config: SynthConfig) -> str:
    if speech.stop_reason == "end":
        return "the model ended the text"
    limit = "--max-seconds" if config.max_seconds is not None else "the longest utterance it was trained on"
    return f"the model did not end it within {limit}"


def _report(config: SynthConfig, text: str, prompt: Prompt, speech: Speech, out: Path, device: torch.device,
            fingerprints: dict[str, str]) -> dict:
    return {
        "format_version": FORMAT_VERSION,
        "id": out.stem,
        "audio": out.name,
        "duration": round(speech.seconds, 4),
        "text": " ".join(text.split()),
        "speaker": prompt.name,
        "synthetic": True,
        "finished": speech.stop_reason == "end",
        "stopped": _why(speech, config),
        **speech.report,
        "prompt": {"file": prompt.name, "text": prompt.text, "text_source": prompt.text_source},
        "sampling": config.sampling.model_dump(),
        "model": fingerprints,
        "device": str(device),
        **versions(),
    }
