"""Speech that tests can tell apart without a model: each text is a tone, and a recogniser knows the tones."""

from __future__ import annotations

import json
import types

import numpy as np
import torch

from stages.audio.io import write_audio
from stages.config.stage_configs import EvalConfig
from stages.metrics.sounds import Output, Sound
from stages.speech.transcriber import Transcript
from stages.synthesis.pipeline import Speech
from stages.synthesis.sources import Source

RATE = 8000
TEXTS = [" ".join(["alpha", "bravo", "cabin", "delta", "eagle", "fable"][i:] + ["gamma"] * i) for i in range(6)]


def tone(index, seconds):
    """The 'speech' of these tests: text number `index` is a tone of 200 + 100 * index Hz."""
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 + 100 * index) * t)).astype(np.float32)


class ToneReader:
    """Hear the text whose tone is the loudest; nothing in silence and in other tones."""

    name, version = "tone-reader", "1"

    def transcribe(self, waveform, sample_rate):
        spectrum = np.abs(np.fft.rfft(waveform))
        index = round((np.argmax(spectrum) * sample_rate / len(waveform) - 200) / 100)
        return Transcript(TEXTS[index] if spectrum.max() > 1 and 0 <= index < len(TEXTS) else "")


def make_set(folder, count=6, seconds=lambda index: 4.0 + index / 2, **columns):
    rows = []
    for index in range(count):
        write_audio(folder / "clips" / f"u{index}.wav", tone(index, seconds(index)), RATE)
        rows.append({"id": f"u{index}", "audio": f"clips/u{index}.wav", "duration": seconds(index),
                     "text": TEXTS[index], "speaker": "ann", "split": "test"}
                    | {name: of(index) for name, of in columns.items()})  # fmt: skip
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def make_hypotheses(folder, spoken):
    for name, (index, seconds) in spoken.items():
        write_audio(folder / f"{name}.wav", tone(index, seconds), RATE)
    return folder


def settings(tmp_path, **changes):
    given = {"set": str(tmp_path / "set"), "out": str(tmp_path / "out"), "transcriber": "tone-reader",
             "device": "cpu", "bootstrap_samples": 50} | changes  # fmt: skip
    return EvalConfig(**given)


def read(tmp_path, name="out"):
    rows = [json.loads(line) for line in (tmp_path / name / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    return json.loads((tmp_path / name / "scores.json").read_text(encoding="utf-8")), {row["id"]: row for row in rows}


def read_one(tmp_path, name="out"):
    """Return the scores of the only system, and what it did with each utterance by id."""
    scores, rows = read(tmp_path, name)
    (system,) = scores["systems"].keys() - {"recordings"}
    return scores["systems"][system], {name: row["systems"].get(system) for name, row in rows.items()}


class FakeCodec(torch.nn.Module):
    """Codes are the samples that it was given, so that tests can see what was encoded."""

    sample_rate, alignment = RATE, 100

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, waveform):
        return {"seen": waveform}


class FakePipeline:
    """Answer every prompt with the tone of the text for `seconds`; remember what was asked."""

    def __init__(self, seconds=2.0, stop_reason="end"):
        self.seconds, self.stop_reason, self.asked = seconds, stop_reason, []
        self.together = []  # how many were asked for at once

    def speak(self, text, prompt, seed):
        self.asked.append(types.SimpleNamespace(text=text, prompt=prompt, seed=seed))
        made = tone(TEXTS.index(text), self.seconds)
        codes = np.zeros((1, 0), dtype=np.int64)
        return Speech(np.concatenate([prompt.waveform, made]), codes, RATE, len(prompt.waveform), self.stop_reason, {})

    def speak_all(self, scripts):
        self.together.append(len(scripts))
        return [self.speak(script.text, script.prompt, script.seed) for script in scripts]


def fake_codec(name, decode, fingerprint=None):
    """A codec that gives `decode(utterance index, recording)` back."""
    def speak(task):
        return Output(Sound(decode(int(task.case.id[1:]), task.recording.waveform), task.recording.sample_rate))

    return Source(name, f"codec {name}", fingerprint or name[0] * 64, lambda device: speak)
