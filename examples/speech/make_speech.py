"""Rebuild the speech in this folder: every line of sentences.txt, read by four flite voices.

    python make_speech.py --out FOLDER

Run twice with the same flite, libsndfile and libopus it writes the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).resolve().parent
VOICES = ("rms", "slt", "awb", "kal16")
PROMPT_VOICE = "rms"
TARGET_RMS = 0.08  # kal16 is 13 dB softer than slt; at this level no voice clips
COMPRESSION_LEVEL = 0.92  # Opus at about 25 kbit/s
LICENSE = "CC0-1.0"


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that hold text."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def speak(text: str, voice: str) -> tuple[np.ndarray, int]:
    """Return flite's reading of `text` as samples in -1..1 and their rate in Hz."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "speech.wav")
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(wav)], check=True)
        return soundfile.read(wav, dtype="float32")


def to_level(waveform: np.ndarray) -> np.ndarray:
    """Scale samples to `TARGET_RMS`, or to a peak of 0.9 where that would clip."""
    rms = float(np.sqrt(np.mean(waveform**2)))
    peak = float(np.abs(waveform).max())
    return waveform * min(TARGET_RMS / rms, 0.9 / peak)


def encode_ogg(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Return an Ogg/Opus file of the samples."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer, waveform, sample_rate, format="OGG", subtype="OPUS", compression_level=COMPRESSION_LEVEL
    )
    return with_fixed_serial(buffer.getvalue())


def with_fixed_serial(ogg: bytes) -> bytes:
    """Give every Ogg page serial number 0, as libsndfile draws a new one for each file (RFC 3533, section 6)."""
    pages, position = [], 0
    while position < len(ogg):
        num_segments = ogg[position + 26]
        header = 27 + num_segments
        end = position + header + sum(ogg[position + 27 : position + header])
        page = bytearray(ogg[position:end])
        page[14:18] = page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", ogg_checksum(page))
        pages.append(bytes(page))
        position = end
    return b"".join(pages)


def _checksum_table() -> list[int]:
    table = []
    for byte in range(256):
        checksum = byte << 24
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x04C11DB7 if checksum & 0x80000000 else 0)
        table.append(checksum & 0xFFFFFFFF)
    return table


CHECKSUM_TABLE = _checksum_table()


def ogg_checksum(page: bytes | bytearray) -> int:
    """Return the CRC-32 of an Ogg page whose own checksum field is zero."""
    checksum = 0
    for byte in page:
        checksum = (checksum << 8 & 0xFFFFFFFF) ^ CHECKSUM_TABLE[checksum >> 24 ^ byte]
    return checksum


def write_reading(text: str, voice: str, path: Path) -> float:
    """Write `text` read by `voice` to an .ogg file and return its duration in seconds."""
    waveform, sample_rate = speak(text, voice)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_ogg(to_level(waveform), sample_rate))
    return len(waveform) / sample_rate


def make_speech(out: Path) -> float:
    """Write audio, metadata.jsonl and prompt.ogg into `out`; return the seconds of training speech."""
    rows = []
    for index, text in enumerate(read_lines(HERE / "sentences.txt"), start=1):
        for voice in VOICES:
            name = f"audio/{voice}-{index:03d}.ogg"
            duration = write_reading(text, voice, out / name)
            rows.append(
                {
                    "file_name": name,
                    "text": text,
                    "speaker": voice,
                    "duration": round(duration, 4),
                    "license": LICENSE,
                    "source": f"flite voice {voice}",
                }
            )
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (out / "metadata.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    write_reading(" ".join(read_lines(HERE / "prompt.txt")), PROMPT_VOICE, out / "prompt.ogg")
    return sum(row["duration"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write (default: this one)")
    options = parser.parse_args()
    if shutil.which("flite") is None:
        sys.exit("error: `flite` is not installed\n\nhint: apt install flite, or brew install flite")
    seconds = make_speech(options.out)
    print(f"{seconds / 60:.1f} minutes of speech in {options.out}")


if __name__ == "__main__":
    main()
