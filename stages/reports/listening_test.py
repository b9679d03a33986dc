"""The page of a listening test: people rate the naturalness and the voice of every system, not knowing which is which.

The page holds sounds under codes: keyed hashes, whose key never leaves `KEY_FILE`. All sounds have one sample rate,
one encoding and one loudness, and lie in the page in the order of their codes. Each listener hears them in an order
of their own. What the page says and does is in listening_test.html.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.artifacts.storage import FORMAT_VERSION, read_json, write_json, write_text
from stages.audio.io import audio_info, encode_audio, read_audio
from stages.audio.loudness import PEAK, loudness
from stages.config.listening import ListeningConfig
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics.cases import UNKNOWN_SPEAKER
from stages.metrics.listening_answers import KEY_FILE, KIND, QUESTIONS
from stages.metrics.sounds import RECORDINGS
from stages.randomness import derive_seed

log = logging.getLogger("halle.eval")

PAGE = "listening-test.html"
_TEMPLATE = Path(__file__).with_name("listening_test.html")
_SAMPLE_RATE = 24_000  # Hz: the paper's
_VOICE_DB = -0.1  # of voices, inaudible: a recording among the systems has other bytes than as a voice
_SUFFIX, _COMPRESSION = ".mp3", 0.0  # every browser plays it; at its best some 70 kbit/s


@dataclass(frozen=True)
class Clip:
    """A part of a file of sound in the evaluation's folder: what follows `start`, up to `end` (seconds)."""

    file: str
    start: float = 0.0
    end: float | None = None
    backwards: bool = False

    def encoded(self, out: Path, lufs: float) -> str:
        """Return the sound at `lufs`, softer where its peaks would clip, as base64."""
        duration = None if self.end is None else self.end - self.start
        waveform = read_audio(out / self.file, _SAMPLE_RATE, self.start, duration)
        waveform = waveform[::-1] if self.backwards else waveform
        peak, found = float(np.abs(waveform).max()), loudness(waveform, _SAMPLE_RATE)
        gain = min(10 ** ((lufs - found) / 20), PEAK / peak) if found > -np.inf else 1.0
        data = encode_audio(waveform * gain, _SAMPLE_RATE, _SUFFIX, compression=_COMPRESSION)
        return base64.b64encode(data).decode("ascii")

    def seconds(self, out: Path) -> float:
        return (self.end or audio_info(out / self.file).duration) - self.start


@dataclass(frozen=True)
class Question:
    """What listeners rate: how a system said an utterance, and how much that is the voice of `voice`, if one is known.

    A `check` is a recording played backwards, which nobody who listens calls natural.
    """

    utterance: str
    system: str
    clip: Clip
    audio_sha256: str
    voice: Clip | None
    check: bool = False

    @property
    def asked(self) -> list[str]:
        return [name for name in QUESTIONS.values() if self.voice or name != "similarity"]


@dataclass
class Contents:
    """What the page holds: questions by code, and every sound, encoded, by its own code or its voice's."""

    questions: dict[str, Question] = field(default_factory=dict)
    voices: dict[str, str] = field(default_factory=dict)
    sounds: dict[str, str] = field(default_factory=dict)

    @property
    def utterances(self) -> set[str]:
        return {question.utterance for question in self.questions.values()}


def write_listening_test(out: Path, rows: Sequence[dict], config: EvalConfig) -> Path:
    """Write the page and its key into `out`, where the audio of `rows` (of items.jsonl) lies; return the page.

    A test that is there already is only written again as it is: without its key, answers to it are worth nothing.
    """
    old = read_json(out / KEY_FILE) if (out / KEY_FILE).is_file() else None
    secret = old["key"] if old else secrets.token_hex(32)
    contents = fill(out, rows, config, secret)
    key = to_key(out, contents, rows, config.listening, secret)
    if old and old["test"] != key["test"]:
        raise UsageError(f"`{out / PAGE}` is a test of other sounds or settings, and answers to it need its key",
                         hint=f"move `{PAGE}` and `{KEY_FILE}` out of `{out}` to make a new one")
    write_json(out / KEY_FILE, key)
    write_text(out / PAGE, to_page(key, contents))
    log.info("`%s` has %d sounds of %d utterances: give it to listeners, but not `%s`", out / PAGE,
             len(contents.questions), len(contents.utterances), KEY_FILE)
    return out / PAGE


def fill(out: Path, rows: Sequence[dict], config: EvalConfig, secret: str) -> Contents:
    """Draw utterances and encode their sounds until there are enough or the page is full."""
    contents, settings, size = Contents(), config.listening, 0
    drawn = draw(rows, config)
    for row in drawn[: settings.utterances]:
        asked = {_code(secret, question.utterance, question.system, str(question.check)): question for question in
                 questions_of(row, rows, config, checked=len(contents.utterances) < settings.checks)}
        voices = {code: _code(secret, "voice", question.voice.file, str(question.voice.end))
                  for code, question in asked.items() if question.voice}
        sounds = {code: question.clip.encoded(out, settings.loudness) for code, question in asked.items()}
        sounds |= {voice: asked[code].voice.encoded(out, settings.loudness + _VOICE_DB)
                   for code, voice in voices.items() if voice not in contents.sounds}
        size += sum(map(len, sounds.values()))
        if size > settings.megabytes * 1e6:
            log.warning("%d utterances fit into %g MB, %d were asked for: -O listening.megabytes=N",
                        len(contents.utterances), settings.megabytes, settings.utterances)
            break
        contents.questions |= asked
        contents.voices |= voices
        contents.sounds |= sounds
    if not contents.questions:
        raise UsageError(f"expected an utterance with audio that fits into {settings.megabytes:g} MB for a listening "
                         f"test, got none of {len(drawn)}", hint="-O listening.megabytes=N")
    return contents


def draw(rows: Sequence[dict], config: EvalConfig) -> list[dict]:
    """Return the utterances with audio in random order, last those that would give a recording away.

    A recording that is also the voice of another utterance is known as such to whoever remembers it.
    """
    shuffled = sorted((row for row in _first_takes(rows) if any(entry["audio"] for entry in row["systems"].values())),
                      key=lambda row: derive_seed(config.seed, "listening", row["id"]))
    chosen: dict[str, dict] = {}
    voices, last = set(), []
    for row in shuffled:
        voice = row["prompt"] if row["prompt_audio"] else (_another_recording(row, rows, config) or row)["id"]
        if row["id"] in voices or (voice in chosen and voice != row["id"]):
            last.append(row)
        else:
            chosen[row["id"]] = row
            voices.add(voice)
    return [*chosen.values(), *last]


def _first_takes(rows: Iterable[dict]) -> list[dict]:
    return [row for row in rows if not row["refused"] and row["take"] == 1]


def questions_of(row: dict, rows: Sequence[dict], config: EvalConfig, checked: bool) -> list[Question]:
    """Return one question a system that has audio of the utterance, its recording among them.

    Nothing is played that a system was given: what continues a recording is judged from there on, and so is the
    recording itself.
    """
    entries = {name: entry for name, entry in row["systems"].items() if entry["audio"]}
    given = max((entry["prompt_seconds"] or 0.0 for entry in entries.values()), default=0.0)
    voice = voice_of(row, rows, given, config)
    asked = []
    for name, entry in entries.items():
        start = given if name == RECORDINGS else entry["prompt_seconds"] or 0.0
        asked.append(Question(row["id"], name, Clip(entry["audio"], start), entry["audio_sha256"], voice))
    if checked and (recording := entries.get(RECORDINGS)):
        clip = Clip(recording["audio"], given, backwards=True)
        asked.append(Question(row["id"], RECORDINGS, clip, recording["audio_sha256"], voice, check=True))
    return asked


def voice_of(row: dict, rows: Sequence[dict], given: float, config: EvalConfig) -> Clip | None:
    """Return what listeners compare a voice with: the prompt, which is the recording's beginning if that was `given`.

    Where nobody tells the prompt it is another recording of the speaker: with the same one, the recording among the
    systems would give itself away.
    """
    recording = row["systems"].get(RECORDINGS, {}).get("audio")
    if given and recording:
        return Clip(recording, end=given)
    if row["prompt_audio"]:
        return Clip(row["prompt_audio"])
    other = _another_recording(row, rows, config)
    return Clip(other["systems"][RECORDINGS]["audio"]) if other else None


def _another_recording(row: dict, rows: Sequence[dict], config: EvalConfig) -> dict | None:
    """Return an utterance by the same speaker whose recording is as long as a prompt."""
    if row["speaker"] == UNKNOWN_SPEAKER:
        return None
    others = [other for other in _first_takes(rows) if other["speaker"] == row["speaker"]
              and other["text"] != row["text"] and RECORDINGS in other["systems"]
              and config.prompt_seconds <= (other["reference_seconds"] or 0.0) <= config.max_prompt_seconds]
    return others[derive_seed(config.seed, "prompt", row["id"]) % len(others)] if others else None


def _code(secret: str, *parts: str) -> str:
    message = "\x1f".join(parts).encode("utf-8")
    return hmac.new(bytes.fromhex(secret), message, hashlib.sha256).hexdigest()[:16]


def to_key(out: Path, contents: Contents, rows: Sequence[dict], settings: ListeningConfig, secret: str) -> dict:
    """Return what `KEY_FILE` holds: what every code stands for, and what was put before listeners how."""
    sounds = {code: {"id": question.utterance, "system": question.system, "check": question.check,
                     "questions": question.asked, "audio_sha256": question.audio_sha256,
                     "voice": question.voice.file if question.voice else None,
                     "seconds": round(question.clip.seconds(out), 2)}
              for code, question in sorted(contents.questions.items())}
    chosen = [row for row in _first_takes(rows) if row["id"] in contents.utterances]
    systems = list(dict.fromkeys(name for row in chosen for name in row["systems"]))
    without = {name: sum(not row["systems"].get(name, {}).get("audio") for row in chosen) for name in systems}
    told = {"sounds": sounds, "loudness_lufs": settings.loudness, "per_listener": settings.per_listener}
    return {"format_version": FORMAT_VERSION, "test": _code(secret, json.dumps(told, sort_keys=True)), "key": secret,
            "systems": systems, "utterances": len(chosen), "without_sound": without, **told}


def to_page(key: dict, contents: Contents) -> str:
    """Return the page. It must not tell more of a sound than its code, and which voice to compare it with."""
    asked = min(key["per_listener"] or len(key["sounds"]), len(key["sounds"]))
    mean = sum(sound["seconds"] for sound in key["sounds"].values()) / len(key["sounds"])
    data = {"format_version": FORMAT_VERSION, "kind": KIND, "test": key["test"], "rated": asked,
            "minutes": round(asked * (mean + 10) / 60),  # 10: to hear the voice, to think
            "loudness": f"{key['loudness_lufs']:g} LUFS", "type": "audio/mpeg",
            "sounds": [{"code": code, "voice": contents.voices.get(code)} for code in key["sounds"]]}
    sounds = "\n".join(f'<script type="text/plain" id="{code}">{contents.sounds[code]}</script>'
                       for code in sorted(contents.sounds))
    template = _TEMPLATE.read_text(encoding="utf-8")
    return template.replace("{{TEST}}", json.dumps(data).replace("<", "\\u003c")).replace("{{SOUNDS}}", sounds)
