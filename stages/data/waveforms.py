"""Random crops of a manifest's recordings: which crop an item is depends on (seed, step, index) alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.manifest import Manifest, Utterance, durations_of, take
from stages.audio.io import AudioError, read_audio
from stages.errors import BadInputsError, UsageError
from stages.randomness import derive_seed

log = logging.getLogger("halle.data")

CROPS_AT_ONCE = 32  # crops that go through an encoder together while latents are gathered
CACHE_BYTES = 512 * 2**20  # a corpus that fits is decoded once and kept; of a larger one only crops are read


class WaveformCrops:
    """Crops of `crop_samples` samples. Utterances are drawn by duration, crop starts uniformly.

    Utterances shorter than a crop are left out (`num_left_out`); with none left this raises UsageError. A file that
    cannot be read is logged and another drawn in its place; more than `max_bad` of them raise BadInputsError.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        sample_rate: int,
        crop_samples: int,
        seed: int,
        purpose: str = "train",
        max_bad: str = "10%",
    ):
        self.sample_rate, self.crop_samples = sample_rate, crop_samples
        self._seed, self._purpose = seed, purpose
        lengths = _lengths(utterances, sample_rate)
        kept = np.flatnonzero(lengths >= crop_samples)
        self.num_left_out = len(lengths) - len(kept)
        if not len(kept):
            raise UsageError(
                f"no {purpose} utterance is as long as a crop: expected at least {crop_samples / sample_rate:g} s, "
                f"the longest of `{len(lengths)}` has {lengths.max(initial=0) / sample_rate:g} s",
                hint="lower `crop_seconds`, or join short utterances with: halle curate --join-seconds 5-20",
            )
        self._utterances = take(utterances, kept)
        self._lengths = lengths[kept]
        self._ends = np.cumsum(self._lengths)
        self._allowed_bad = allowed_bad(max_bad, len(kept))
        self._bad: dict[int, str] = {}
        self._keep = int(self._ends[-1]) * 4 <= CACHE_BYTES
        self._cache: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Return the number of utterances that crops are drawn from."""
        return len(self._utterances)

    @property
    def utterances(self) -> Sequence[Utterance]:
        """What crops are drawn from."""
        return self._utterances

    def batch(self, step: int, indices: Iterable[int]) -> Tensor:
        """Return the crops `indices` of a step, float32 [items, 1, crop_samples]."""
        return torch.from_numpy(np.stack([self.crop(step, index) for index in indices])).unsqueeze(1)

    def batches(self, step: int, num_crops: int) -> Iterator[Tensor]:
        """Yield the first `num_crops` crops of a step, a bounded number at a time."""
        for first in range(0, num_crops, CROPS_AT_ONCE):
            yield self.batch(step, range(first, min(first + CROPS_AT_ONCE, num_crops)))

    def crop(self, step: int, index: int) -> np.ndarray:
        """Return one crop, float32 [crop_samples]."""
        for attempt in count():
            number, first = self._draw(step, index, attempt)
            if number not in self._bad:
                try:
                    return self._read(number, first)
                except AudioError as error:
                    self._bad[number] = error.message
                    log.warning("left out: %s", error.message)
            self._refuse_too_many_bad()
        raise AssertionError("count() never ends")

    def drawn(self, step: int, index: int) -> str:
        """Return the id of the utterance that a crop, already made, is of."""
        draws = (self._draw(step, index, attempt)[0] for attempt in count())
        return self._utterances[next(number for number in draws if number not in self._bad)].id

    def _draw(self, step: int, index: int, attempt: int) -> tuple[int, int]:
        """Return the number of an utterance and the first sample of a crop of it."""
        generator = np.random.default_rng(derive_seed(self._seed, self._purpose, "crop", step, index, attempt))
        number = int(np.searchsorted(self._ends, generator.integers(self._ends[-1]), side="right"))
        return number, int(generator.integers(self._lengths[number] - self.crop_samples + 1))

    def _read(self, number: int, first: int) -> np.ndarray:
        utterance = self._utterances[number]
        if self._keep:
            if number not in self._cache:
                self._cache[number] = read_audio(
                    utterance.audio, self.sample_rate, utterance.start, utterance.duration
                )
            found = self._cache[number][first : first + self.crop_samples]
        else:
            start = utterance.start + first / self.sample_rate
            found = read_audio(utterance.audio, self.sample_rate, start, self.crop_samples / self.sample_rate)
        # resampling and rounded durations may be a few samples short or long
        found = found[: self.crop_samples]
        return np.pad(found, (0, self.crop_samples - len(found)))

    def _refuse_too_many_bad(self) -> None:
        """Raise when there are too many; asked at every bad draw, since another thread may have found the last one."""
        bad = list(self._bad.values())
        if len(bad) > self._allowed_bad or len(bad) == len(self._utterances):
            raise BadInputsError(
                f"`{len(bad)}` of {len(self._utterances)} recordings cannot be read, "
                f"expected at most {self._allowed_bad}; the last is {bad[-1]}",
                hint="mend them, or raise --max-bad",
            )


def allowed_bad(max_bad: str, total: int) -> int:
    """Return how many of `total` may be bad: `max_bad` is a count or a share such as `1%`."""
    try:
        number = float(max_bad.removesuffix("%"))
    except ValueError as error:
        raise UsageError(f"expected a count or a share such as 1% for --max-bad, got `{max_bad}`") from error
    return int(total * number / 100) if max_bad.endswith("%") else int(number)


def training_and_validation_crops(
    manifest: Manifest, sample_rate: int, crop_samples: int, seed: int, max_bad: str
) -> tuple[WaveformCrops, WaveformCrops]:
    """Return crops of the split `train` and of `validation`; without a usable validation split, of `train` again."""
    crops = WaveformCrops(manifest.split("train"), sample_rate, crop_samples, seed, "train", max_bad)
    if crops.num_left_out:
        log.warning("%d of %d training utterances are shorter than a crop of %g s and are left out",
                    crops.num_left_out, crops.num_left_out + len(crops), crop_samples / sample_rate)  # fmt: skip
    held_out = manifest.split("validation")
    long_enough = np.flatnonzero(_lengths(held_out, sample_rate) >= crop_samples)
    if not len(long_enough):
        log.warning("%s: validation measures training utterances", "no validation utterance is as long as a crop"
                    if held_out else "the manifest has no validation utterance")  # fmt: skip
        return crops, WaveformCrops(manifest.split("train"), sample_rate, crop_samples, seed, "validation", max_bad)
    held_out = take(held_out, long_enough)
    return crops, WaveformCrops(held_out, sample_rate, crop_samples, seed, "validation", max_bad)


def _lengths(utterances: Sequence[Utterance], sample_rate: int) -> np.ndarray:
    """Return the samples of every utterance, int64."""
    return np.rint(durations_of(utterances) * sample_rate).astype(np.int64)


def crop_length(seconds: float, sample_rate: int, alignment: int, least: int) -> int:
    """Return the samples of a crop: whole frames, nearest to `seconds`; refuse less than `least` samples."""
    samples = max(1, round(seconds * sample_rate / alignment)) * alignment
    if samples < least:
        raise UsageError(
            f"expected crops of at least {least / sample_rate:.3f} s, the discriminator's largest window, "
            f"got `{samples / sample_rate:.3f}` s",
            hint="raise `crop_seconds`",
        )
    return samples


def own_items(batch_size: int, accumulation: int, micro: int, rank: int, world_size: int) -> range:
    """Return which items of a global batch one process takes in one micro-batch; refuse an uneven division."""
    if batch_size % (accumulation * world_size):
        raise UsageError(
            f"expected a batch_size that {accumulation} micro-batches and {world_size} processes divide, "
            f"got `{batch_size}`",
            hint="change `training.batch_size` or `training.accumulation`",
        )
    size = batch_size // (accumulation * world_size)
    first = (micro * world_size + rank) * size
    return range(first, first + size)
