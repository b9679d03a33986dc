"""Where an evaluation's audio comes from: a model that speaks, a codec that decodes, or a folder of anyone's audio."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.checkpoint import part_of_model, resolve_checkpoint
from stages.artifacts.manifest import Utterance
from stages.artifacts.storage import fingerprint_of, read_json, sha256_file
from stages.artifacts.tensors import CONFIG_FILE
from stages.audio.io import audio_info, read_audio
from stages.codec.base import Codec
from stages.codec.foreign import allow_maker, is_maker
from stages.codec.inference import for_inference
from stages.codec.meta_encodec import is_meta_encodec
from stages.codec.reconstruction import reconstruct_whole
from stages.codec.registry import codec_fingerprint, load_codec
from stages.config.sampling import SamplingConfig
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics.cases import Case, cut_prompt
from stages.metrics.hypotheses import Hypotheses, match_hypotheses
from stages.metrics.prompt_lengths import Prompted
from stages.metrics.sounds import RECORDINGS, Output, Sound, resample
from stages.randomness import derive_seed
from stages.synthesis.model import find_codec, find_parts, load_speech_model, named_model, with_own_sampling
from stages.synthesis.peak_memory import MemoryMeter
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import encode_prompt
from stages.synthesis.takes import Script, Speech

log = logging.getLogger("halle.eval")

@dataclass(frozen=True)
class Task:
    """What is to be said: a case for the n-th time, from 1; `recording` is the test set's own of it, if it has one."""

    case: Case
    recording: Sound | None
    take: int = 1


# None when there is nothing for it
Speak = Callable[[Task], Output | None]


@dataclass(frozen=True)
class Source:
    """Who speaks. `open` loads what is needed and returns the function that speaks; no model is loaded before.

    `full_name` tells sources of one name apart. `speaks` tells that it is a model that samples: its outputs say how
    long they took, and another take is another reading. `contents` are hashes of the files that outputs are copied
    from, by id; `unknown_files` belong to no utterance of the test set, and `files` says how the others were matched.
    `prompted` tells a model with prompts of one length from itself with others. With a `batch_size` above 1 `open`
    gives a `Prompter`, which takes so many tasks at once.
    """

    name: str
    what: str
    fingerprint: str
    open: Callable[[torch.device], Speak]
    speaks: bool = False
    unknown_files: tuple[str, ...] = ()
    full_name: str = ""
    files: str = ""
    contents: Mapping[str, str] | None = None
    prompted: Prompted | None = None
    sampling: SamplingConfig | None = None
    batch_size: int = 1

    @property
    def facts(self) -> dict:
        """What scores.json says of it."""
        return {"what": self.what, "fingerprint": self.fingerprint, "unknown_files": list(self.unknown_files),
                "prompted": asdict(self.prompted) if self.prompted else None}

    def made_of(self, case: Case) -> str:
        """Identify what an output is made of: when that has changed, it is made anew."""
        return self.fingerprint if self.contents is None else self.contents.get(case.id, "")


def find_sources(config: EvalConfig, cases: Sequence[Case]) -> tuple[Source, ...]:
    """Return the sources that the settings name, their inputs checked, without loading a model."""
    sources = []
    if not config.hypotheses or config.model or config.codec or config.ar or config.nar:
        sources = [codec_source(path) for path in (find_codec(config), *config.further_codecs)] \
            if config.setting == "reconstruction" else model_sources(config)
    if config.hypotheses and config.setting == "continuation" and not config.with_prompt:
        log.warning("in the setting continuation, texts hold the prompt's words: give --with-prompt when the files in "
                    "%s begin with the prompt, else similarity hears it; if they do not, its words count as deleted",
                    ", ".join(f"`{folder}`" for folder in config.hypotheses))
    folders = [Path(folder) for folder in config.hypotheses]
    names = config.names or [folder.resolve().name for folder in folders]
    given_seconds = config.prompt_seconds if config.with_prompt else 0.0
    sources += [hypotheses_source(folder, match_hypotheses(cases, folder), name, given_seconds)
                for folder, name in zip(folders, names, strict=True)]
    return told_apart(sources)


def told_apart(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources, those that share a name (or that of the recordings) by their full names."""
    names = Counter([RECORDINGS, *(source.name for source in sources)])
    named = tuple(source if names[source.name] == 1 else replace(source, name=source.full_name or source.what)
                  for source in sources)
    if len({source.name for source in named}) < len(named):
        twice = next(name for name, count in Counter(source.name for source in named).items() if count > 1)
        raise UsageError(f"expected different systems, got `{twice}` more than once")
    return named


def hypotheses_source(folder: Path, hypotheses: Hypotheses, name: str, given_seconds: float = 0.0) -> Source:
    """Return the audio files of `folder` as they are; the first `given_seconds` of each are the prompt."""
    what = f"audio in {folder}: {hypotheses.in_words}"

    def speak(task: Task) -> Output | None:
        file = hypotheses.matched.get(task.case.id)
        if file is None:
            return None
        sound = Sound(read_audio(file), audio_info(file).sample_rate)
        if sound.seconds <= given_seconds:
            raise UsageError(f"its {sound.seconds:.2f} s are not longer than the prompt of {given_seconds:g} s")
        return Output(sound, round(given_seconds * sound.sample_rate))

    contents = {utterance_id: fingerprint_of([sha256_file(file), given_seconds])
                for utterance_id, file in hypotheses.matched.items()}
    return Source(name, what, fingerprint_of(contents), lambda _: speak, unknown_files=hypotheses.unknown,
                  full_name=f"audio in {folder}", contents=contents, files=hypotheses.in_words)


def codec_source(path: str) -> Source:
    """Return a codec that encodes and decodes the test set's own recordings."""

    def open_codec(device: torch.device) -> Speak:
        codec = for_inference(load_codec(path).to(device))
        return lambda task: Output(reconstruct(codec, task.recording))

    fingerprint = fingerprint_of(["codec", _codec_fingerprint(path)])
    what = f"codec {path}: {rates_in_words(load_codec(path))}"
    return Source(_name_of(path), what, fingerprint, open_codec, full_name=f"codec {path}")


def rates_in_words(codec: Codec) -> str:
    """Return what a codec transmits, such as `3.84 kbit/s, codebooks 6 x 8 Hz + 6 x 16 Hz + 4 x 24 Hz + 3 x 48 Hz`."""
    streams = " + ".join(f"{spec.num_codebooks} x {spec.frame_rate:g} Hz" for spec in codec.transmitted)
    return f"{codec.bits_per_second / 1000:g} kbit/s, codebooks {streams}"


def reconstruct(codec: Codec, recording: Sound) -> Sound:
    """Encode and decode a recording; the result has as many samples at the codec's rate."""
    waveform = resample(recording, codec.sample_rate).copy()
    return Sound(reconstruct_whole(codec, waveform), codec.sample_rate)


def model_sources(config: EvalConfig) -> list[Source]:
    """Return the model, or one source for each length of prompt that it is to be compared with."""
    if not config.prompt_lengths:
        return [model_source(config)]
    found = []
    for seconds in config.prompt_lengths:
        source = model_source(config.model_copy(update={"prompt_seconds": seconds}))
        found.append(replace(source, name=f"{source.name}, prompt {seconds:g} s",
                             fingerprint=fingerprint_of([source.fingerprint, seconds]),
                             prompted=Prompted(source.name, seconds)))
    return found


def model_source(config: EvalConfig) -> Source:
    """Return a whole model, prompted as the setting says."""
    parts = find_parts(config)
    fingerprints, config = part_fingerprints(parts), with_own_sampling(config, parts["ar"])

    def open_model(device: torch.device) -> Speak:
        memory = MemoryMeter(device)
        model = load_speech_model(config, device)
        return Prompter(SpeechPipeline(model, config), model.codec, config, model.loudness_db, memory)

    folder = named_model(config) or str(Path(parts["ar"]).parent)
    what = "model: " + ", ".join(f"{name} {path} ({fingerprints[name][:12]})" for name, path in parts.items())
    return Source(_name_of(folder), what, fingerprint_of(fingerprints), open_model, speaks=True,
                  sampling=config.sampling, batch_size=config.batch_size)


@dataclass(frozen=True)
class Prompter:
    """Speak the cases of a test set with a pipeline, each with the prompt of the evaluation's setting."""

    pipeline: SpeechPipeline
    codec: Codec
    config: EvalConfig
    loudness_db: float | None = None
    memory: MemoryMeter = field(default_factory=MemoryMeter)

    def __call__(self, task: Task) -> Output:
        script = self._script(task)
        with self.memory.watch() as peak:
            began = time.perf_counter()
            speech = self.pipeline.speak(script.text, script.prompt, script.seed)
            seconds = time.perf_counter() - began
        output = self._output(speech)
        timed = self.config.batch_size == 1  # the others of an evaluation are not
        return replace(output, seconds_to_make=seconds, peak_memory=peak.num_bytes) if timed else output

    def together(self, tasks: Sequence[Task]) -> list[Output]:
        """Say several things side by side, each as alone up to rounding; nobody knows how long one of them took."""
        return [self._output(speech) for speech in self.pipeline.speak_all([self._script(task) for task in tasks])]

    def _script(self, task: Task) -> Script:
        case, take = task.case, task.take
        waveform, text = self._beginning(task.recording) if self._continues else self._other(case.prompt)
        name = case.prompt.id if case.prompt else case.id
        prompt = encode_prompt(waveform, text, self.codec, name=name, loudness_db=self.loudness_db)
        return Script(case.text, prompt, derive_seed(self.config.seed, "eval", case.id, *([take] if take > 1 else [])))

    def _output(self, speech: Speech) -> Output:
        if len(speech.waveform) <= speech.prompt_samples:
            raise UsageError("the model generated nothing")
        waveform, given = (speech.waveform, speech.prompt_samples) if self._continues else (speech.generated, 0)
        return Output(Sound(waveform, speech.sample_rate), given, stop_reason=speech.stop_reason)

    @property
    def _continues(self) -> bool:
        return self.config.setting == "continuation"

    def _beginning(self, recording: Sound) -> tuple[np.ndarray, str]:
        """Return the first seconds of the recording, without a text: the text to speak holds it already."""
        rate = self.codec.sample_rate
        return cut_prompt(resample(recording, rate), rate, self.config.prompt_seconds), ""

    def _other(self, other: Utterance) -> tuple[np.ndarray, str]:
        return read_audio(other.audio, self.codec.sample_rate, other.start, other.duration), other.text


def _name_of(path: str) -> str:
    resolved = Path(path).resolve()
    return resolved.stem if resolved.is_file() else resolved.name


def _codec_fingerprint(path: str) -> str:
    """Return a codec's fingerprint; one of another project is loaded for it. Naming a maker is leave to import it."""
    if is_maker(path):
        allow_maker(path)
    if is_maker(path) or is_meta_encodec(path):
        return codec_fingerprint(load_codec(path))
    return _part_fingerprint(path)


def part_fingerprints(parts: dict[str, str]) -> dict[str, str]:
    """Return the fingerprints of a model's parts by name; nothing is loaded."""
    return {name: _part_fingerprint(path) for name, path in parts.items()}


def _part_fingerprint(path: str) -> str:
    """Return the fingerprint that a checkpoint states, or the hash of a one-file export; nothing is loaded."""
    if Path(path).is_file():
        return sha256_file(path)
    return read_json(resolve_checkpoint(part_of_model(path, "codec")) / CONFIG_FILE)["fingerprint"]
