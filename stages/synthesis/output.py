"""What speech becomes on disk: audio, a report beside it, and captions."""

from __future__ import annotations

from pathlib import Path

from stages.artifacts.run_dir import move_aside, versions
from stages.artifacts.storage import FORMAT_VERSION, read_json, write_json
from stages.audio.io import SYNTHETIC, is_synthetic, write_audio
from stages.config.stage_configs import SynthConfig
from stages.errors import HalleError, UsageError
from stages.speech.transcriber import Transcriber
from stages.synthesis.captions import TimedSentence, caption_files, time_sentences, write_captions
from stages.synthesis.listener import find_listener
from stages.synthesis.model import SpeechModel
from stages.synthesis.takes import Script, Speech


class SpeechWriter:
    """Write what one model spoke under one set of settings."""

    def __init__(self, config: SynthConfig, model: SpeechModel):
        self.config, self.model = config, model
        self.transcriber = caption_listener(config, model.ar.config.text_pointer)

    def write(self, speech: Speech, script: Script, audio: Path, report: Path) -> dict:
        """Write the audio, its captions and last its report, which is returned."""
        if self.config.restart:
            for file in output_files(audio, report, self.config):
                move_aside(file)
        _remove_old_captions(audio, report)
        write_audio(audio, speech.generated, speech.sample_rate, comment=SYNTHETIC)
        content = self._report(speech, script, audio)
        if self.config.captions != "none":
            sentences = time_sentences(speech, self.transcriber)
            files = write_captions(audio, sentences, self.config.captions)
            content |= self._captions(sentences, files)
        write_json(report, content)
        return content

    def _report(self, speech: Speech, script: Script, audio: Path) -> dict:
        prompt = script.prompt
        return {
            "format_version": FORMAT_VERSION,
            "id": audio.stem,
            "audio": audio.name,
            "duration": round(speech.seconds, 4),
            "text": " ".join(script.text.split()),
            "speaker": prompt.name,
            "synthetic": True,
            "finished": speech.stop_reason == "end",
            "stopped": why_it_stopped(speech, self.config),
            **speech.report,
            "prompt": {"file": prompt.name, "text": prompt.text, "text_source": prompt.text_source,
                       **prompt.checks},
            "sampling": self.config.sampling.over({}).model_dump(),
            "model": self.model.fingerprints,
            "device": str(self.model.device),
            **versions(),
        }

    def _captions(self, sentences: list[TimedSentence], files: list[Path]) -> dict:
        heard = None if self.transcriber is None else {"name": self.transcriber.name,
                                                       "version": self.transcriber.version}
        return {"captions": [file.name for file in files], "recogniser": heard,
                "sentences": [sentence.to_row() for sentence in sentences]}


def caption_listener(config: SynthConfig, text_pointer: bool) -> Transcriber | None:
    """Return the recogniser that times captions, if there shall be any and a text pointer does not do it."""
    if config.captions == "none" or text_pointer:
        return None
    return find_listener(config, "times in captions will be estimates")[0]


def _remove_old_captions(audio: Path, report: Path) -> None:
    """Remove the captions that an old report says were written: they are of other speech."""
    written = _old_report(report).get("captions", ())
    for file in caption_files(audio, "both"):
        if file.name in written:
            file.unlink(missing_ok=True)


def _old_report(report: Path) -> dict:
    """Return the report of ours that is there; empty when there is none, or something else."""
    try:
        old = read_json(report) if report.is_file() else {}
    except HalleError:
        return {}
    return old if isinstance(old, dict) and old.get("synthetic") else {}


def refuse_foreign(audio: Path, report: Path, config: SynthConfig) -> None:
    """Refuse to write over a file that is not of earlier speech, unless it is to be moved aside.

    A killed run leaves audio without a report, of which its metadata say that it is ours.
    """
    told = bool(_old_report(report))
    ours = told or is_synthetic(audio)
    for file in output_files(audio, report, config):
        if file.exists() and not config.restart and not (told if file == report else ours):
            raise UsageError(f"`{file}` is there already, and not of speech that halle made",
                             "give another file after --out, or --restart, which moves it aside")


def output_files(audio: Path, report: Path, config: SynthConfig) -> list[Path]:
    """Return the files that a `SpeechWriter` would write."""
    return [audio, *caption_files(audio, config.captions), report]


def why_it_stopped(speech: Speech, config: SynthConfig) -> str:
    """Say in words whether the text was finished."""
    if speech.stop_reason == "end":
        return "the model ended the text"
    if speech.stop_reason == "unknown_text":
        return f"the model knows no letter of a part of it: {'; '.join(speech.report['not_spoken'])}"
    limit = "--max-seconds" if config.max_seconds is not None else "the longest utterance it was trained on"
    return f"the model did not end it within {limit}"
