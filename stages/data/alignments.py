"""Where in its text each frame of an utterance is, for all utterances that an AR model is trained and validated on.

The aligner is trained on the store's own utterances, in a minute on one core, and read off; what it found is kept in a
folder of the run. It is a pure function of the store, the codec, the settings and the seed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.storage import FORMAT_VERSION, fingerprint_of, is_complete, read_json, staged_folder, write_json
from stages.codec.base import Codec
from stages.config.stage_configs import AlignerConfig, TrainARConfig, TrainNARConfig
from stages.data.batching import BatchPlan
from stages.data.token_codec import streams_of
from stages.data.tokens import TokenData
from stages.lm.aligner import HOP, Aligner, forward_sum, monotonic_path, num_frames
from stages.lm.pointer import even_advances
from stages.randomness import derive_seed

log = logging.getLogger("halle.data")

FOLDER = "alignments"  # of a run
KEY = "key.json"  # what they rest on
LEAST_SPREAD = 8  # frames that are taken for a prompt at least


@dataclass(frozen=True)
class Alignments:
    """The token that each frame of the lowest stream ends in, of utterances end to end; `starts[item]` is -1 for none.

    In a share of the utterances the first frames are read evenly, as those of a prompt are in synthesis, where nobody
    knows when which of its words is said: `longest_prompt` frames at most, and at most half of the utterance.
    """

    places: np.ndarray  # [frames of all]
    starts: np.ndarray  # [utterances of the mixture + 1]
    spread_share: float
    longest_prompt: int

    def of(self, index: int) -> np.ndarray:
        """Return the token that each frame of an utterance ends in, [frames]."""
        return self.places[self.starts[index] : self.starts[index + 1]].astype(np.int64)

    def advances(self, index: int, random: Random | None = None) -> np.ndarray:
        """Return by how many tokens each frame of an utterance goes on [frames]; with `random` maybe after a prompt."""
        places = self.of(index)
        if random is not None and random.random() < self.spread_share:
            longest = min(self.longest_prompt, len(places) // 2)
            if longest >= LEAST_SPREAD:
                length = random.randint(LEAST_SPREAD, longest)
                even = even_advances(int(places[length - 1]) + 1, length).numpy().cumsum()
                places = np.concatenate([even, places[length:]])
        return np.diff(places, prepend=0)


def find_alignments(
    config: TrainARConfig | TrainNARConfig, data: TokenData, codec: Codec, on_main: Callable[[Callable], object]
) -> Alignments | None:
    """Return where everything is said, found out once in a run and by its main process only; None without a pointer."""
    if not has_pointer(config):
        return None
    folder = Path(config.out) / FOLDER
    on_main(lambda: make_alignments(folder, data, codec, config.aligner, config.seed))
    return load_alignments(folder, config.aligner, data.lowest.frame_rate)


def has_pointer(config: TrainARConfig | TrainNARConfig) -> bool:
    """Tell whether a model is shown its text at a pointer, for which alignments are needed."""
    return config.model.text_pointer if isinstance(config, TrainARConfig) else config.model.text_mode == "pointer"


def make_alignments(folder: Path, data: TokenData, codec: Codec, config: AlignerConfig, seed: int) -> None:
    """Train an aligner and write what it says of every utterance into `folder`, unless that has been done.

    What was found of other stores, or by an aligner of other settings, is found anew.
    """
    learned = config.model_dump(mode="json", exclude={"spread_share", "longest_prompt_seconds"})
    key = fingerprint_of([data.parents(), learned, seed])
    if is_complete(folder) and (not (folder / KEY).is_file() or read_json(folder / KEY)["of"] == key):
        return
    found = align(data, codec, [*data.train.tolist(), *data.validation.tolist()], config, seed)
    rows = [found.get(index, np.zeros(0, np.uint16)) for index in range(len(data.store))]
    with staged_folder(folder) as temporary:
        np.save(temporary / "places.npy", np.concatenate(rows))
        np.save(temporary / "starts.npy", np.cumsum([0, *map(len, rows)]))
        write_json(temporary / KEY, {"format_version": FORMAT_VERSION, "of": key})


def align(
    data: TokenData, codec: Codec, items: Sequence[int], config: AlignerConfig, seed: int
) -> dict[int, np.ndarray]:
    """Train an aligner and return the token that each frame of these utterances ends in, [frames] by index."""
    speech = _Speech(data, codec)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "aligner"))
        aligner = train_aligner(speech, config, seed)
    return {index: _places(speech, aligner, index) for index in items}


def load_alignments(folder: Path, config: AlignerConfig, frame_rate: float) -> Alignments:
    """Open what `make_alignments` wrote; `frame_rate` is the lowest stream's."""
    return Alignments(np.load(folder / "places.npy"), np.load(folder / "starts.npy"), config.spread_share,
                      round(config.longest_prompt_seconds * frame_rate))  # fmt: skip


class _Speech:
    """Utterances as the aligner takes them."""

    def __init__(self, data: TokenData, codec: Codec):
        self.data, self.codec = data, codec
        self.num_frames = data.store.lengths(data.lowest.name)  # of the lowest stream
        self.device = next(codec.parameters()).device

    @torch.no_grad()
    def features(self, index: int) -> Tensor:
        """Return the complete features [latent_dim, frames] of an utterance, each channel standardised over it."""
        hierarchy = self.codec.hierarchy
        streams = streams_of(self.data.store[index], self.device)
        found = hierarchy.teacher_feature(streams, hierarchy.num_levels + 1)[0].float()
        return (found - found.mean(1, keepdim=True)) / (found.std(1, keepdim=True) + 1e-3)

    def batch(self, items: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features, text, and their lengths in the aligner's frames and in tokens, padded."""
        found = [self.features(int(index)).T for index in items]
        found = [torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % HOP)) for rows in found]
        texts = [torch.from_numpy(self.data.store[int(index)].text_tokens.astype(np.int64)) for index in items]
        features, text = (torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (found, texts))
        frames = torch.tensor([num_frames(len(rows)) for rows in found], device=self.device)
        tokens = torch.tensor([len(row) for row in texts], device=self.device)
        return features.transpose(1, 2), text.to(self.device), frames, tokens

    def lengths(self, items: np.ndarray) -> np.ndarray:
        """Return [items, 2]: feature frames, and text tokens."""
        store, rate = self.data.store, self.codec.hierarchy.frame_rate / self.data.lowest.frame_rate
        frames = (self.num_frames[items] * rate).astype(np.int64)
        return np.stack([frames, store.lengths("text")[items]], axis=1)


def train_aligner(speech: _Speech, config: AlignerConfig, seed: int) -> Aligner:
    """Train on short utterances, in which there are fewer ways to be wrong; all, when none is short."""
    data = speech.data
    rows = data.store.rows
    seconds = np.array([rows[index]["duration"] for index in data.train])
    items = data.train[seconds <= config.max_seconds] if (seconds <= config.max_seconds).any() else data.train
    plan = BatchPlan(speech.lengths(items), config.batch_frames, seed)
    aligner = Aligner(speech.codec.hierarchy.latent_dim, data.tokenizer.vocab_size).to(speech.device)
    optimizer = torch.optim.AdamW(aligner.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps + 1)
    losses = []
    for step in range(config.steps):
        features, text, frames, tokens = speech.batch(items[plan.items(step)])
        loss = forward_sum(aligner(features, text, frames, tokens), frames, tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(aligner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if (step + 1) % 100 == 0:
            log.info("aligner, step %d of %d: loss %.3f", step + 1, config.steps, torch.stack(losses[-100:]).mean())
    return aligner.eval()


@torch.no_grad()
def _places(speech: _Speech, aligner: Aligner, index: int) -> np.ndarray:
    """Return the token [frames of the lowest stream] in which each frame ends."""
    length = int(speech.num_frames[index])
    features, text, frames, tokens = speech.batch([index])
    if int(frames) < int(tokens):  # so fast that tokens would have to share frames
        return even_advances(int(tokens), length).numpy().cumsum().astype(np.uint16)
    path = monotonic_path(aligner(features, text, frames, tokens)[0].cpu().numpy())
    ends = (np.arange(1, length + 1) * len(path)) // length - 1
    return path[ends.clip(0)].astype(np.uint16)
