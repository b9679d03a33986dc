"""Waveforms of a corpus to codes: whole utterances, in batches that change nothing.

A batch holds only utterances of equal aligned length, so that no utterance is padded beyond what its own
encoding needs, and codes of a batch are the codes of its utterances alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import groupby, islice

import numpy as np
import torch

from stages.audio.io import AudioError, check_sound, read_audio
from stages.codec.base import Codec
from stages.text.corpus import Item

log = logging.getLogger("halle.tokenize")


def read_waveforms(items: list[Item], sample_rate: int,
                   rejections: dict[str, dict]) -> Iterator[tuple[Item, np.ndarray]]:
    """Yield readable items with their samples [samples], the shortest first; note the others in `rejections`."""
    usable = [item for item in items if item.rejection is None]
    for item in sorted(usable, key=lambda item: (item.utterance.duration, item.utterance.id)):
        utterance = item.utterance
        try:
            waveform = read_audio(utterance.audio, sample_rate, utterance.start, utterance.duration)
            check_sound(utterance.audio, waveform)
        except AudioError as error:
            rejections[utterance.id] = {"id": utterance.id, "reason": error.reason, "detail": error.detail}
            log.info("left out %s", error.message)
            continue
        yield item, waveform


def aligned_batches(loaded: Iterable[tuple[Item, np.ndarray]], codec: Codec,
                    batch_seconds: float) -> Iterator[list[tuple[Item, np.ndarray]]]:
    """Group neighbours of equal aligned length, at most `batch_seconds` of audio together."""
    for length, group in groupby(loaded, key=lambda pair: aligned_length(len(pair[1]), codec.alignment)):
        size = max(1, int(batch_seconds * codec.sample_rate / length))
        while batch := list(islice(group, size)):
            yield batch


def aligned_length(num_samples: int, alignment: int) -> int:
    """Return `num_samples` rounded up to a multiple of `alignment`."""
    return -(-num_samples // alignment) * alignment


@torch.no_grad()
def encode_batch(codec: Codec, waveforms: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the codes uint16 [frames, codebooks] by stream, of waveforms [samples] of equal aligned length.

    Waveforms are zero-padded up to `codec.alignment`.
    """
    length = aligned_length(len(waveforms[0]), codec.alignment)
    batch = np.stack([np.pad(waveform, (0, length - len(waveform))) for waveform in waveforms])
    device = next(codec.parameters()).device
    streams = codec.encode(torch.from_numpy(batch)[:, None].to(device))
    arrays = {name: codes.transpose(1, 2).cpu().numpy().astype(np.uint16) for name, codes in streams.items()}
    return [{name: codes[index] for name, codes in arrays.items()} for index in range(len(waveforms))]
