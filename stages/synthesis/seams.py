"""From one AR pass to the next: what is carried across, and how the sound is joined.

    pass 1    prompt | speech ................ last seconds
    pass 2                            prompt + last seconds | speech ......

The last seconds are the next pass's prompt in every stream, so both passes decode the same codes there: a short
cross-fade between the two renderings of the same sound leaves no click.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from stages.codec.base import Codec
from stages.synthesis.long_script import Count, clause_starts
from stages.synthesis.takes import Prefix, Take

FADE_SECONDS = 0.01
_SEARCH_SECONDS = 0.5  # a pause is looked for this far from where a share of the text tokens puts it
_PAUSE_SECONDS = 0.1
LONGEST_CARRY = 2  # times `carry_seconds`, so that a clause's beginning can be found


def last_seconds(take: Take, codec: Codec, count: Count, carry_seconds: float) -> Prefix:
    """Return the end of a take, from the beginning of a clause that is `carry_seconds` to twice as long.

    Without a clause of that length it begins with a word. Which words it holds is estimated from shares of text
    tokens and then moved to the quietest place nearby: an error would lie seconds away from the new text.
    """
    words = take.request.text.split()
    hop = codec.hierarchy.lowest.hop_length
    begin = take.request.prefix_codes.shape[-1] if take.request.prefix.text else 0  # of what `words` say, in frames
    total = take.codes.shape[-1]
    starts = _word_starts([count(word) for word in words], begin, total)
    carry = carry_seconds * codec.sample_rate / hop
    word = _first_carried(words, [total - start for start in starts], carry)
    frame = begin if word == 0 else _quiet_frame(take.waveform, starts[word], (begin, total), codec)
    return cut(take, codec, frame, " ".join(words[word:]))


def _word_starts(tokens: Sequence[int], begin: int, total: int) -> list[float]:
    """Return the frame at which each word begins if every text token lasts equally long."""
    sums = np.cumsum([0, *tokens])
    return list(begin + (total - begin) * sums[:-1] / max(1, sums[-1]))


def _first_carried(words: Sequence[str], remaining: Sequence[float], carry: float) -> int:
    """Return the first word to carry, given the frames from each word to the end."""
    clauses = [index for index in (0, *clause_starts(words)) if carry <= remaining[index] <= LONGEST_CARRY * carry]
    enough = [index for index in range(len(words)) if remaining[index] >= carry]
    return max(clauses or enough or [0])


def _quiet_frame(waveform: np.ndarray, wanted: float, span: tuple[int, int], codec: Codec) -> int:
    """Return the frame near `wanted`, inside `span`, around whose first sample the sound is quietest."""
    hop, unit = codec.hierarchy.lowest.hop_length, alignment_frames(codec)
    reach, half = _SEARCH_SECONDS * codec.sample_rate / hop, round(_PAUSE_SECONDS * codec.sample_rate / 2)
    first = max(span[0], int(wanted - reach)) // unit * unit
    frames = [frame for frame in range(first, min(span[1], int(wanted + reach) + 1), unit) if frame > span[0]]

    def loudness(frame: int) -> tuple[float, float]:
        around = waveform[max(0, frame * hop - half): frame * hop + half]
        return float(np.square(around, dtype=np.float64).mean()), abs(frame - wanted)

    return min(frames, key=loudness, default=span[0])


def alignment_frames(codec: Codec) -> int:
    """Return after how many of the AR's frames all streams line up: 1 for Table 1."""
    return codec.alignment // codec.hierarchy.lowest.hop_length


def cut(take: Take, codec: Codec, frame: int, text: str) -> Prefix:
    """Return everything from a frame of the AR's stream on, in all streams."""
    hop = codec.hierarchy.lowest.hop_length
    first, end = frame * hop, take.codes.shape[-1] * hop
    hops = {name: codec.stream(name).hop_length for name in take.streams}
    streams = {name: codes[..., first // hops[name]: end // hops[name]] for name, codes in take.streams.items()}
    return Prefix(text, streams, end - first)


def until(take: Take, codec: Codec, frame: int) -> Take:
    """Return what a take says before a frame of the AR's stream."""
    frame = frame // alignment_frames(codec) * alignment_frames(codec)
    end = frame * codec.hierarchy.lowest.hop_length
    streams = {name: codes[..., : end // codec.stream(name).hop_length] for name, codes in take.streams.items()}
    means = None if take.means is None else take.means[:, :frame]
    return replace(take, codes=take.codes[:, :frame], advances=take.advances[:, :frame], means=means, streams=streams,
                   waveform=take.waveform[:end], stop_reason="cut")


def put_behind(voice: Prefix, last: Prefix) -> Prefix:
    """Return a prefix that holds the voice prompt and behind it what was said last, as deep as that is."""
    streams = {name: torch.cat([voice.streams[name][:, : codes.shape[1]], codes], dim=-1)
               for name, codes in last.streams.items()}
    return Prefix(f"{voice.text} {last.text}", streams, voice.num_samples + last.num_samples)


def join(parts: list[np.ndarray], take: Take, carried: bool, silence: int, sample_rate: int) -> None:
    """Append the speech of a take to waveforms [samples], after `silence` samples of exact silence.

    Without silence, and when the take goes on from the last part's end, the two renderings of that end are
    cross-faded. Otherwise both sides are faded.
    """
    last, new = parts[-1], take.generated.copy()
    fade = round(FADE_SECONDS * sample_rate)
    if carried and not silence:
        lead = take.waveform[: take.prefix_samples][-min(fade, len(last)):]
        rising = np.linspace(0, 1, len(lead), dtype=np.float32)
        parts[-1] = np.concatenate([last[: len(last) - len(lead)],
                                    last[len(last) - len(lead):] * (1 - rising) + lead * rising])
        parts.append(new)
        return
    parts[-1] = last * _fade_in(len(last), fade)[::-1]
    parts += [np.zeros(silence, dtype=np.float32), new * _fade_in(len(new), fade)]


def _fade_in(length: int, fade: int) -> np.ndarray:
    gains = np.ones(length, dtype=np.float32)
    fade = min(fade, length)
    gains[:fade] = np.linspace(0, 1, fade, dtype=np.float32)
    return gains
