"""Score one window with PESQ in a process that may crash: float32 [2, samples] at 16 kHz in, JSON out."""

from __future__ import annotations

import io
import json
import sys


def main() -> None:
    """Read a .npy file (reference, output) from standard input and write {"value"} or {"reason"}."""
    import numpy as np
    from pesq import NoUtterancesError, PesqError, pesq

    reference, output = np.load(io.BytesIO(sys.stdin.buffer.read()))
    try:
        answer = {"value": float(pesq(16_000, reference, output, "wb"))}
    except NoUtterancesError:
        answer = {"reason": "pesq finds no speech"}
    except (PesqError, ValueError, ZeroDivisionError) as error:
        answer = {"reason": f"pesq failed: {type(error).__name__}"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
