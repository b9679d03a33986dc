"""What a text pointer tells of a take: when each word of its text is said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.synthesis.takes import Take


def word_frames(take: Take, tokens: Sequence[int]) -> np.ndarray | None:
    """Return the frame at which each word begins and that at which the last one ends, [words + 1].

    `tokens` are the text tokens of each word of the take's text. Frames count from the first that was written; what
    was not come to lies behind the last. None when the model has no text pointer.
    """
    if take.advances is None:
        return None
    reached = take.advances[0].cumsum(0).cpu().numpy()[take.request.prefix_codes.shape[-1]:]
    own = take.request.own_tokens
    reached = reached - (len(take.request.tokens) - 1 - own)
    firsts = np.cumsum([0, *tokens])
    firsts = np.round(firsts * (own / max(1, firsts[-1])))  # a word may be said otherwise in its sentence than alone
    return np.searchsorted(reached, firsts)
