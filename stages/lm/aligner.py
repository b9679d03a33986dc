"""Which text token is heard when: an aligner that learns from speech and its text alone.

After Badlani et al., 2021 ("One TTS Alignment To Rule Them All"): small convolutions map speech features and text
tokens into one space, and near means said. What is trained is the probability of all monotonic ways through the text
(a CTC loss over the tokens' places), with a prior near the diagonal; what is used is the likeliest way.
Features have to be standardised for each utterance, which takes the speaker out of them: without that, or on codes in
their place, it learned nothing in the time in which it otherwise learns all.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.lm.transformer import valid_positions

WIDTH, SPACE = 128, 64
HOP = 2  # feature frames a frame of the aligner
DROPOUT = 0.1
BLANK = -1.0  # log-weight of saying nothing, beside the tokens' log-probabilities (as in the paper's code)
NEVER = -1e4


class Aligner(nn.Module):
    """Score features [batch, feature_dim, frames] against text [batch, tokens]: [batch, frames / 2, tokens]."""

    def __init__(self, feature_dim: int, vocab_size: int):
        super().__init__()
        self.audio = nn.Sequential(
            nn.Conv1d(feature_dim, WIDTH, 2 * HOP, stride=HOP, padding=HOP // 2), nn.GELU(), nn.Dropout(DROPOUT),
            nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.GELU(), nn.Dropout(DROPOUT),
            nn.Conv1d(WIDTH, SPACE, 1),
        )  # fmt: skip
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.text = nn.Sequential(
            nn.Dropout(DROPOUT), nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.GELU(), nn.Dropout(DROPOUT),
            nn.Conv1d(WIDTH, SPACE, 1),
        )  # fmt: skip

    def forward(self, features: Tensor, text: Tensor, frame_lengths: Tensor, text_lengths: Tensor) -> Tensor:
        """Return log-probabilities of the tokens at each frame, times the prior.

        Lengths [batch] are in frames of the aligner (`num_frames`) and in tokens; what lies beyond them is `NEVER`.
        """
        heard = self.audio(features).transpose(1, 2)[:, : int(frame_lengths.max())]
        said = self.text(self.embedding(text).transpose(1, 2)).transpose(1, 2)
        distances = (heard.square().sum(-1)[:, :, None] + said.square().sum(-1)[:, None]
                     - 2 * heard @ said.transpose(1, 2))  # fmt: skip
        tokens = valid_positions(text_lengths, said.shape[1])[:, None]
        scores = (-distances / math.sqrt(SPACE)).masked_fill(~tokens, NEVER).log_softmax(-1)
        frames = valid_positions(frame_lengths, heard.shape[1])[:, :, None]
        return (scores + log_prior(frame_lengths, text_lengths)).masked_fill(~(tokens & frames), NEVER)


def num_frames(feature_frames: int) -> int:
    """Return the aligner's frames of features that are zero-padded to a multiple of `HOP`."""
    return -(-feature_frames // HOP)


def log_prior(frame_lengths: Tensor, text_lengths: Tensor) -> Tensor:
    """Return the beta-binomial probability, as a logarithm, of each token at each frame (section 2.2 of the paper).

    [batch, frames, tokens], widest in the middle of an utterance; beyond an item's lengths anything finite.
    """
    count, last = frame_lengths[:, None, None].float(), (text_lengths - 1)[:, None, None].float()
    alpha = torch.arange(1, int(frame_lengths.max()) + 1, device=count.device)[None, :, None].minimum(count)
    token = torch.arange(int(text_lengths.max()), device=count.device)[None, None].minimum(last)
    beta = count + 1 - alpha
    choose = (last + 1).lgamma() - (token + 1).lgamma() - (last - token + 1).lgamma()
    drawn = (token + alpha).lgamma() + (last - token + beta).lgamma() - (last + alpha + beta).lgamma()
    return choose + drawn + (alpha + beta).lgamma() - alpha.lgamma() - beta.lgamma()


def forward_sum(log_probs: Tensor, frame_lengths: Tensor, text_lengths: Tensor) -> Tensor:
    """Return the loss a frame: minus the log-probability of all monotonic ways through the whole text.

    An item with fewer frames than tokens has no such way and counts as 0.
    """
    weighed = F.pad(log_probs, (1, 0), value=BLANK).log_softmax(-1)
    targets = torch.arange(1, log_probs.shape[-1] + 1, device=log_probs.device).expand(len(log_probs), -1)
    losses = F.ctc_loss(weighed.transpose(0, 1), targets, frame_lengths, text_lengths, reduction="none",
                        zero_infinity=True)  # fmt: skip
    return (losses / frame_lengths).mean()


def monotonic_path(scores: np.ndarray) -> np.ndarray:
    """Return the token of each frame [frames] on the best way through scores [frames, tokens] (Viterbi).

    It begins at the first token, ends at the last, and goes on by at most one a frame. Needs as many frames as tokens.
    """
    num_frames, num_tokens = scores.shape
    best = np.full(num_tokens + 1, -np.inf, dtype=np.float32)  # best[s + 1] ends in token s
    best[1] = scores[0, 0]
    came = np.zeros(scores.shape, dtype=bool)  # from the token before
    for frame in range(1, num_frames):
        np.greater(best[:-1], best[1:], out=came[frame])
        best[1:] = np.maximum(best[:-1], best[1:]) + scores[frame]
    path = np.empty(num_frames, dtype=np.int64)
    token = num_tokens - 1
    for frame in range(num_frames - 1, -1, -1):
        path[frame] = token
        token -= came[frame, token]
    return path
