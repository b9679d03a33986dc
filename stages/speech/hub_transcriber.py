"""Recognisers of `transformers`: Whisper and its like, other models that write text, and CTC models.

Each model says what is in one window of at most 30 s; how long speech is cut and put together is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch

from stages.errors import MissingModelError, UsageError
from stages.speech.hub import local_folder, revision, weights_of
from stages.speech.known_weights import fetch
from stages.speech.stitching import OVERLAP_SECONDS, WINDOW_SECONDS, join, plan_windows, spread, stitch_all
from stages.speech.transcriber import SILENCE, Transcript, Word

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

_LEAST_SECONDS = 0.1  # no word is shorter, and convolutions cannot begin with less than 25 ms
_CTC_TIME_ERROR = 0.5  # seconds; a character's frame moves little from window to window
_WHISPER_TIME_ERROR = 3.0  # times of segments, within which words are placed by their letters
_NO_TIME_ERROR = OVERLAP_SECONDS + 2.5  # words spread over a whole window
# Whisper's own way out of loops and nonsense (Radford et al. 2023, section 4.5), thresholds as in its model card
_WHISPER_FALLBACK = {"temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "compression_ratio_threshold": 1.35,
                     "logprob_threshold": -1.0, "no_speech_threshold": 0.6}

# Return the words heard in a window float32 [samples], with seconds from its beginning
HearWindow = Callable[[np.ndarray], list[Word]]


class HubTranscriber:
    """A recogniser given as a folder or a name in the hub's cache. Its weights are loaded when it first listens.

    `language` is what a multilingual Whisper is told to expect; other models know one language.
    """

    def __init__(self, model: str, language: str = "en", device: str = "cpu"):
        if find_spec("transformers") is None:
            raise MissingModelError("recognisers of the hub need the package `transformers`, which is not installed",
                                    hint="pip install 'halle[hf]'")
        folder = local_folder(model)
        if folder is None or not weights_of(folder):
            raise MissingModelError(f"there is no recogniser `{model}` on this machine",
                                    hint=f"{fetch(model)}, or name a folder with one")
        self._folder, self._language, self._device = folder, language, device
        self.name = Path(model).name
        self._kind = _kind_of(folder, model)
        told = f", language {language}" if self._kind == "whisper" else ""
        self.version = (f"{revision(folder)}, transformers {version('transformers')}{told}, windows of "
                        f"{WINDOW_SECONDS:g} s")
        self._hear: HearWindow | None = None

    def transcribe(self, waveform: np.ndarray, sample_rate: int) -> Transcript:
        """Return the words of the whole waveform, heard in windows of at most 30 s."""
        if self._hear is None:
            self._load()
        samples = np.asarray(waveform, dtype=np.float32)
        if sample_rate != self._rate:
            samples = soxr.resample(samples, sample_rate, self._rate)
        windows = plan_windows(len(samples), self._rate)
        spans = [(first / self._rate, end / self._rate) for first, end in windows]
        heard = [self._window(samples[first:end], span[0]) for (first, end), span in zip(windows, spans, strict=True)]
        words = stitch_all(heard, spans, self._time_error)
        return Transcript(join(words), tuple(words))

    def _window(self, samples: np.ndarray, offset: float) -> list[Word]:
        if len(samples) < _LEAST_SECONDS * self._rate or np.abs(samples).max() < SILENCE:
            return []
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(0)  # Whisper draws where its most likely words are nonsense
            return [Word(word.text, word.start + offset, word.end + offset) for word in self._hear(samples)]

    def _load(self) -> None:
        from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

        auto = AutoModelForCTC if self._kind == "ctc" else AutoModelForSpeechSeq2Seq
        try:
            processor = AutoProcessor.from_pretrained(self._folder, local_files_only=True)
            model = auto.from_pretrained(self._folder, local_files_only=True).to(self._device).eval()
        except (OSError, ValueError, ImportError) as error:
            raise MissingModelError(f"the recogniser `{self._folder}` cannot be loaded: {error}",
                                    hint="expected what `save_pretrained` of the model and of its processor write"
                                    ) from error
        self._rate = processor.feature_extractor.sampling_rate
        self._hear, self._time_error = _hearing(self._kind, model, processor, self._language)


def _kind_of(folder: Path, model: str) -> str:
    """Return `ctc`, `whisper` or `text` by a model's configuration."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING, MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingModelError(f"the recogniser `{model}` cannot be read: {error}",
                                hint="expected a config.json of a model that this version of transformers knows"
                                ) from error
    names = config.architectures or ()
    if type(config) in MODEL_FOR_CTC_MAPPING and any(name.endswith("CTC") for name in names):
        return "ctc"
    if type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        return "whisper" if config.model_type == "whisper" else "text"
    raise UsageError(f"`{model}` is no recogniser: it is a {', '.join(names) or config.model_type}",
                     hint="name a CTC or a speech-to-text model, or your own as package.module:function")


def _hearing(kind: str, model: PreTrainedModel, processor: ProcessorMixin, language: str) -> tuple[HearWindow, float]:
    """Return how a model hears a window, and how far times of a word may be apart in two windows."""
    if kind == "ctc":
        return _ctc(model, processor)
    if kind == "whisper" and hasattr(model.generation_config, "no_timestamps_token_id"):
        return _whisper(model, processor, language), _WHISPER_TIME_ERROR
    return _writer(model, processor), _NO_TIME_ERROR


def _ctc(model: PreTrainedModel, processor: ProcessorMixin) -> tuple[HearWindow, float]:
    """Take the likeliest character of every frame; words begin and end with the frames of their characters."""
    from transformers import Wav2Vec2CTCTokenizer

    tokenizer = processor.tokenizer
    timed = isinstance(tokenizer, Wav2Vec2CTCTokenizer)

    def hear(samples: np.ndarray) -> list[Word]:
        codes = model(**_features(processor, samples, model)).logits[0].argmax(dim=-1).tolist()
        seconds = len(samples) / processor.feature_extractor.sampling_rate
        if not timed:
            return spread(processor.batch_decode([codes])[0], 0.0, seconds)
        letters = [" " if token == tokenizer.word_delimiter_token else "" if token in tokenizer.all_special_tokens
                   else token for token in tokenizer.convert_ids_to_tokens(codes)]
        return ctc_words(letters, seconds / len(codes))

    return hear, _CTC_TIME_ERROR if timed else _NO_TIME_ERROR


def ctc_words(letters: Sequence[str], frame_seconds: float) -> list[Word]:
    """Return the words of one letter a frame: equal ones in a row count once, a space ends a word, '' is the blank."""
    words: list[Word] = []
    text, start, end, frame = "", 0, 0, 0
    for letter, run in groupby([*letters, " "]):
        length = len(list(run))
        if letter == " " and text:
            words.append(Word(text, start * frame_seconds, end * frame_seconds))
            text = ""
        elif letter.strip():
            start, end, text = (start if text else frame), frame + length, text + letter
        frame += length
    return words


def _whisper(model: PreTrainedModel, processor: ProcessorMixin, language: str) -> HearWindow:
    """Let Whisper write segments with their times; words are placed within them by their letters."""
    told = _told(model, language)

    def hear(samples: np.ndarray) -> list[Word]:
        seconds = len(samples) / processor.feature_extractor.sampling_rate
        made = model.generate(**_features(processor, samples, model), **told, **_WHISPER_FALLBACK,
                              return_timestamps=True, return_segments=True, condition_on_prev_tokens=False)
        words = []
        for segment in made["segments"][0]:
            start, end = float(segment["start"]), min(float(segment["end"]), seconds)
            if start < end:  # what begins after the sound was made up of the padding
                words += spread(processor.decode(segment["tokens"], skip_special_tokens=True), start, end)
        return words

    return hear


def _told(model: PreTrainedModel, language: str) -> dict[str, str]:
    """Return what a multilingual Whisper is told; refuse a language that it, or an English one, does not know."""
    settings = model.generation_config
    multilingual = getattr(settings, "is_multilingual", hasattr(settings, "lang_to_id"))
    if f"<|{language}|>" not in (settings.lang_to_id if multilingual else ("<|en|>",)):
        raise UsageError(f"`{model.name_or_path}` does not know the language `{language}`",
                         hint="--language takes codes such as en, de or zh; names that end in .en are English only")
    return {"language": language, "task": "transcribe"} if multilingual else {}


def _writer(model: PreTrainedModel, processor: ProcessorMixin) -> HearWindow:
    """Let a model write without times; words are spread over the window."""

    def hear(samples: np.ndarray) -> list[Word]:
        seconds = len(samples) / processor.feature_extractor.sampling_rate
        codes = model.generate(**_features(processor, samples, model))
        return spread(processor.batch_decode(codes, skip_special_tokens=True)[0], 0.0, seconds)

    return hear


def _features(processor: ProcessorMixin, samples: np.ndarray, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    inputs = processor(samples, sampling_rate=processor.feature_extractor.sampling_rate, return_tensors="pt")
    return inputs.to(model.device)
