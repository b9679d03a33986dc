"""Waveforms of a corpus to codes: whole utterances, in batches that change nothing, read and encoded by threads.

A batch holds only utterances of equal aligned length, so that no utterance is padded beyond what its own
encoding needs, and codes of a batch are the codes of its utterances alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby, islice

import numpy as np
import torch

from stages.artifacts.token_store import as_uint16
from stages.audio.io import AudioError, check_sound, read_audio
from stages.codec.base import Codec
from stages.codec.quantizer import exact
from stages.parallel import ordered_map
from stages.text.corpus import Item

log = logging.getLogger("halle.tokenize")

Batch = list[tuple[Item, np.ndarray]]  # utterances and their samples [samples]
Codes = dict[str, np.ndarray]  # stream -> codes [frames, codebooks] of one utterance


def read_waveforms(items: list[Item], sample_rate: int, rejections: dict[str, dict],
                   workers: int = 1) -> Iterator[tuple[Item, np.ndarray]]:
    """Yield readable items with their samples [samples], the shortest first; note the others in `rejections`."""
    usable = [item for item in items if item.rejection is None]
    usable.sort(key=lambda item: (item.utterance.duration, item.utterance.id))
    for item, found in zip(usable, ordered_map(partial(_read, sample_rate), usable, workers), strict=True):
        if isinstance(found, AudioError):
            rejections[item.utterance.id] = {"id": item.utterance.id, "reason": found.reason, "detail": found.detail}
            log.info("left out %s", found.message)
        else:
            yield item, found


def _read(sample_rate: int, item: Item) -> np.ndarray | AudioError:
    utterance = item.utterance
    try:
        waveform = read_audio(utterance.audio, sample_rate, utterance.start, utterance.duration)
        check_sound(utterance.audio, waveform)
    except AudioError as error:
        return error
    return waveform


def aligned_batches(loaded: Iterable[tuple[Item, np.ndarray]], codec: Codec,
                    batch_seconds: float) -> Iterator[Batch]:
    """Group neighbours of equal aligned length, at most `batch_seconds` of audio together."""
    for length, group in groupby(loaded, key=lambda pair: aligned_length(len(pair[1]), codec.alignment)):
        size = max(1, int(batch_seconds * codec.sample_rate / length))
        while batch := list(islice(group, size)):
            yield batch


def aligned_length(num_samples: int, alignment: int) -> int:
    """Return `num_samples` rounded up to a multiple of `alignment`."""
    return -(-num_samples // alignment) * alignment


def encode_batches(codec: Codec, batches: Iterable[Batch], workers: int = 1) -> Iterator[tuple[Batch, list[Codes]]]:
    """Yield every batch with the codes of its utterances, in order; `workers` batches are encoded at a time.

    On a CPU, threads that each encode a batch outdo one batch that all processors share: none waits for the slowest,
    and codes do not depend on how many there are.
    """

    def encoded(batch: Batch) -> tuple[Batch, list[Codes]]:
        return batch, encode_batch(codec, [waveform for _, waveform in batch])

    # the flags that `exact` sets belong to the process: threads that came and went would set them in any order
    with exact(), one_thread_an_operation():
        yield from ordered_map(encoded, batches, workers)


@contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Have torch compute every operation in the thread that calls it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def encode_batch(codec: Codec, waveforms: list[np.ndarray]) -> list[Codes]:
    """Return the codes uint16 [frames, codebooks] by stream, of waveforms [samples] of equal aligned length.

    Waveforms are zero-padded up to `codec.alignment`.
    """
    length = aligned_length(len(waveforms[0]), codec.alignment)
    batch = np.stack([np.pad(waveform, (0, length - len(waveform))) for waveform in waveforms])
    device = next(codec.parameters()).device
    streams = codec.encode(torch.from_numpy(batch)[:, None].to(device))
    arrays = {name: as_uint16(codes.transpose(1, 2).cpu().numpy(), name) for name, codes in streams.items()}
    return [{name: codes[index] for name, codes in arrays.items()} for index in range(len(waveforms))]
