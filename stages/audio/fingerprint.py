"""What a stretch of sound is recognised by, wherever it is heard again: constellations of spectral peaks.

Peaks outlast another level, another codec and another beginning. Three of them that follow each other closely, as
frequencies and distances in time, make a key that hardly occurs elsewhere; what two recordings share are many equal
keys at one distance in time. After Wang, An industrial-strength audio search algorithm (2003), with triples in place
of pairs, since one library holds a hundred million keys.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import rfft
from scipy.ndimage import maximum_filter

SAMPLE_RATE = 8_000
_WINDOW, _HOP = 512, 128  # 64 ms, every 16 ms
FRAME_SECONDS = _HOP / SAMPLE_RATE
_LOWEST, _HIGHEST = 10, 230  # of the bins of 15.6 Hz: 160 to 3600 Hz, which every codec keeps
_REACH = (21, 25)  # a peak is the largest of so many bins and frames: 330 Hz, 0.4 s
_FLOOR = 1e-3  # of the largest magnitude: fainter peaks are noise
_FOLLOWERS = 5  # peaks after the first that a triple is made of
_LONGEST = 94  # frames between the peaks of a triple: 1.5 s
_ONE_IN = 16  # of the triples is kept: some ten a second


def fingerprint(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return keys (uint32 [marks]) and frames (int32 [marks], rising) of a waveform [samples] at `SAMPLE_RATE`."""
    times, bins = _peaks(waveform)
    keys, frames = [], []
    for second in range(1, _FOLLOWERS):
        for third in range(second + 1, _FOLLOWERS + 1):
            found = _triples(times, bins, second, third)
            keys.append(found[0])
            frames.append(found[1])
    key, frame = np.concatenate(keys), np.concatenate(frames)
    kept = key % _ONE_IN == 0
    key, frame = (key[kept] >> np.uint64(32)).astype(np.uint32), frame[kept].astype(np.int32)
    order = np.lexsort((key, frame))
    return key[order], frame[order]


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 so that any of its bits may choose a sample of it (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _peaks(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frames and bins of the peaks, in the order of time."""
    if len(waveform) < _WINDOW:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, _WINDOW)[::_HOP]
    spectrum = np.abs(rfft(frames * np.hanning(_WINDOW).astype(np.float32)))[:, _LOWEST:_HIGHEST]
    largest = maximum_filter(spectrum, size=_REACH[::-1], mode="constant")
    times, bins = np.nonzero((spectrum == largest) & (spectrum > _FLOOR * spectrum.max()))
    return times, bins


def _triples(times: np.ndarray, bins: np.ndarray, second: int, third: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and frames of every peak with the `second`th and the `third`th after it."""
    count = max(len(times) - third, 0)
    start = times[:count]
    near, far = times[second : second + count] - start, times[third : third + count] - start
    # coarse enough that another sampling of time and frequency seldom changes them: 31 Hz and 64 ms
    parts = (bins[:count] // 2, bins[second : second + count] // 2, bins[third : third + count] // 2,
             near // 4, far // 4)
    packed = np.zeros(count, np.uint64)
    for part in parts:
        packed = (packed << np.uint64(7)) | part.astype(np.uint64)
    valid = far <= _LONGEST
    return mix(packed[valid]), start[valid]
