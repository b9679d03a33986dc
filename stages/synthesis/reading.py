"""One script being read, pass after pass: what comes next, what it goes on from, and what has been said so far."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.errors import UsageError
from stages.randomness import derive_seed
from stages.synthesis import seams
from stages.synthesis.long_script import Piece, Room, last_clause_end, one_piece, plan_pieces, split_piece
from stages.synthesis.pointed import word_frames
from stages.synthesis.takes import Prefix, Request, Script, Speech, SpokenPiece, Take

if TYPE_CHECKING:
    from stages.synthesis.pipeline import SpeechPipeline

log = logging.getLogger("halle.synth")

_USUAL_TEMPO = 2.0  # a prompt's tempo is believed within this factor of the training speech's
_LEAST_ROOM = 0.5  # of the trained length is left for text, however long the prompt


class Reading:
    """A script while it is spoken. `next_request` and `accept` take turns until there is no next request."""

    def __init__(self, pipeline: SpeechPipeline, script: Script):
        self.pipeline, self.script = pipeline, script
        self.voice = Prefix(script.prompt.text, script.prompt.streams, len(script.prompt.waveform))
        self.frames_per_token = self._tempo()
        self.with_voice = self._voice_fits()
        self.not_spoken: list[str] = []
        self.pieces = self._plan()
        self.last: Prefix | None = None  # what was said last, when the next pass shall go on from it
        self.spoken: list[SpokenPiece] = []
        self.parts: list[np.ndarray] = []
        self.codes: list[Tensor] = []
        self.prompt_sound = np.zeros(0, dtype=np.float32)
        self.stop_reasons: list[str] = []
        self.steps = 0
        self.seconds: dict[str, float] = {}

    # ---- planning

    def _tempo(self) -> float:
        """Return frames a text token: the prompt's own, which the speech will take over."""
        model = self.pipeline.model
        usual = model.max_frames / model.max_text_tokens
        tokens = self.pipeline.count(self.voice.text) if self.voice.text else 0
        if tokens == 0:
            return usual
        measured = self.pipeline.prefix_codes(self.voice).shape[-1] / tokens
        return min(max(measured, usual / _USUAL_TEMPO), usual * _USUAL_TEMPO)

    @property
    def _carried_frames(self) -> float:
        """The most that is carried across, in frames."""
        lowest = self.pipeline.model.codec.hierarchy.lowest
        return seams.LONGEST_CARRY * self.pipeline.config.carry_seconds * lowest.frame_rate

    def _voice_fits(self) -> bool:
        """Tell whether later passes go on from the voice prompt too, so that the voice does not drift.

        With what is carried, it may take half of what the AR was trained on. A prompt without a text of its own
        cannot be put before another text.
        """
        model = self.pipeline.model
        frames = self.pipeline.prefix_codes(self.voice).shape[-1] + self._carried_frames
        tokens = self.pipeline.count(self.voice.text) + self._carried_frames / self.frames_per_token
        return bool(self.voice.text) and frames <= model.max_frames / 2 and tokens <= model.max_text_tokens / 2

    def _plan(self) -> list[Piece]:
        pipeline = self.pipeline
        if pipeline.config.single_pass:
            return [self._without_unknown(piece) for piece in one_piece(self.script.text, pipeline.count)]
        voice_frames = pipeline.prefix_codes(self.voice).shape[-1] if self.voice.text else 0
        carried = self._carried_frames + (voice_frames if self.with_voice else 0)
        if voice_frames > _LEAST_ROOM * pipeline.model.max_frames:
            log.warning("the prompt is longer than half of what the AR was trained on: a shorter one leaves more room")
        room = Room(self._room_behind(voice_frames), self._room_behind(carried))
        pieces = plan_pieces(self.script.text, pipeline.count, room, pipeline.config.pause_seconds)
        pieces = [known for piece in pieces if (known := self._without_unknown(piece)).sentences]
        if not pieces:
            raise UsageError("nothing is left of the text to speak", "give some words")
        if len(pieces) > 1:
            log.info("the text is spoken in %d passes", len(pieces))
        return pieces

    def _without_unknown(self, piece: Piece) -> Piece:
        """Return a piece without the sentences of which the model knows no letter; they are not spoken."""
        unknown = [sentence.text for sentence in piece.sentences if self.pipeline.is_unknown(sentence.text)]
        self.not_spoken += unknown
        return replace(piece, sentences=tuple(s for s in piece.sentences if s.text not in unknown))

    def _room_behind(self, prefix_frames: float) -> float:
        model = self.pipeline.model
        trained = min(model.max_text_tokens, model.max_frames / self.frames_per_token)
        return max(_LEAST_ROOM * trained, trained - prefix_frames / self.frames_per_token)

    # ---- speaking

    def next_request(self) -> Request | None:
        """Return the next pass, or None when everything is said or no more may be said."""
        number = len(self.spoken)
        if number == len(self.pieces) or (most := self._most_frames()) <= 0:
            return None
        piece, prefix = self.pieces[number], self._prefix()
        seed = self.script.seed if number == 0 else derive_seed(self.script.seed, "pass", number)
        within = self.pipeline.prefix_codes(prefix).shape[-1] if not prefix.text else 0
        expected = max(1, round(piece.tokens * self.frames_per_token) - within)
        return self.pipeline.request(piece.text, prefix, seed, most, expected)

    def _most_frames(self) -> int:
        """Return how many frames the next pass may write: as many as were trained on, of what a limit leaves."""
        pipeline = self.pipeline
        if pipeline.config.max_seconds is None:
            return pipeline.model.max_frames
        silence = sum(piece.pause_seconds for piece in self.pieces[: len(self.spoken) + 1])
        taken = sum(codes.shape[-1] for codes in self.codes)
        taken += round(silence * pipeline.model.codec.hierarchy.lowest.frame_rate)
        left = pipeline.max_frames() - taken
        return left if pipeline.config.single_pass else min(left, pipeline.model.max_frames)

    def _prefix(self) -> Prefix:
        if self.last is None:
            return self.voice
        return seams.put_behind(self.voice, self.last) if self.with_voice else self.last

    def accept(self, take: Take) -> int:
        """Take over what a pass said. Return the text tokens that it left to another pass."""
        planned, passes = self.pieces[len(self.spoken)], len(self.pieces)
        if take.stop_reason == "max_frames":
            take = self._within_its_text(take, planned)
        piece, rate = self.pieces[len(self.spoken)], self.pipeline.model.codec.sample_rate
        silence = round(piece.pause_seconds * rate)
        if self.parts:
            seams.join(self.parts, take, self.last is not None, silence, rate)
        else:
            self.prompt_sound, self.parts = take.waveform[: take.prefix_samples], [take.generated]
        end = sum(map(len, self.parts))
        start = end - len(take.generated)
        self.spoken.append(SpokenPiece(piece, start / rate, end / rate, self._report(piece, take, start, end),
                                       self._word_times(piece, take, start / rate)))
        self.codes.append(take.codes[:, take.request.prefix_codes.shape[-1]:])
        self.stop_reasons.append(take.stop_reason)
        self.steps += take.steps
        for name, seconds in take.seconds.items():
            self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 4)
        self.last = self._carry(take)
        return planned.tokens - piece.tokens if len(self.pieces) > passes else 0

    def _within_its_text(self, take: Take, piece: Piece) -> Take:
        """Return a take that time was up for as far as its last clause, and make its rest the next piece.

        What was said only a text pointer knows. Where no more may be said, or less than half of it was, which may have
        been anything, the whole take is kept, and the words that it did not come to are not spoken.
        """
        frames, count = self._word_frames(piece, take), self.pipeline.count
        if frames is None:
            return take
        complete = int(np.searchsorted(frames[1:], take.num_frames))
        said, rest = split_piece(piece, last_clause_end(piece.text.split()[:complete]), count)
        limited = self.pipeline.config.single_pass or take.request.max_frames < self.pipeline.model.max_frames
        if rest.sentences and said.tokens >= piece.tokens / 2 and not limited:
            log.info("time was up within a pass: what it left, %d words, is spoken in another", len(rest.text.split()))
            return self._put_off(take, piece, said, rest, frames[len(said.text.split())])
        begun = max(1, int(np.searchsorted(frames[:-1], take.num_frames)))
        self.pieces[len(self.spoken)], rest = split_piece(piece, begun, count)
        self.not_spoken += [rest.text] if rest.sentences else []
        return self._of_text(take, self.pieces[len(self.spoken)], piece)

    def _put_off(self, take: Take, piece: Piece, said: Piece, rest: Piece, frames: int) -> Take:
        """Return what a take says in its first frames, checked again, and make the rest of its piece the next one."""
        pipeline, number = self.pipeline, len(self.spoken)
        self.pieces[number : number + 1] = [said, rest]
        end = take.request.prefix_codes.shape[-1] + frames
        part = seams.until(self._of_text(take, said, piece), pipeline.model.codec, end)
        return part if pipeline.improve is None else pipeline.improve(pipeline, part)

    def _of_text(self, take: Take, said: Piece, piece: Piece) -> Take:
        """Return a take as one of a request for the beginning of its piece."""
        old = take.request
        expected = round(old.expected_frames * said.tokens / max(1, piece.tokens))
        return replace(take, request=self.pipeline.request(said.text, old.prefix, old.seed, old.max_frames, expected))

    def _word_frames(self, piece: Piece, take: Take) -> np.ndarray | None:
        return word_frames(take, [self.pipeline.count(word) for word in piece.text.split()])

    def _word_times(self, piece: Piece, take: Take, start: float) -> tuple[float, ...] | None:
        """Return when each word begins and the last one ends, in seconds of the speech, if a text pointer tells."""
        frames = self._word_frames(piece, take)
        if frames is None:
            return None
        rate = self.pipeline.model.codec.hierarchy.lowest.frame_rate
        begun = np.minimum(frames + 0.5, take.num_frames)  # somewhere in its frame: on average in the middle
        return tuple((start + begun / rate).tolist())

    def _carry(self, take: Take) -> Prefix | None:
        """Return what the next pass goes on from. What did not end may be babble: the voice prompt is better then."""
        if len(self.spoken) == len(self.pieces) or take.stop_reason == "max_frames" or not take.num_frames:
            return None
        pipeline = self.pipeline
        return seams.last_seconds(take, pipeline.model.codec, pipeline.count, pipeline.config.carry_seconds)

    def _report(self, piece: Piece, take: Take, start: int, end: int) -> dict:
        rate = self.pipeline.model.codec.sample_rate
        carried = None
        if self.last is not None:
            carried = {"text": self.last.text, "seconds": round(self.last.num_samples / rate, 4),
                       "behind_the_prompt": self.with_voice}
        return {
            "text": piece.text,
            "start": round(start / rate, 4),
            "end": round(end / rate, 4),
            "pause_before": round(piece.pause_seconds, 4),
            "carried": carried,  # nothing: it goes on from the voice prompt
            "within_a_sentence": piece.sentences[-1].goes_on,
            "text_tokens": take.request.own_tokens,
            "frames": take.num_frames,
            "expected_frames": take.request.expected_frames,
            "stop_reason": take.stop_reason,
            **take.notes,
        }

    # ---- the end

    def speech(self) -> Speech:
        """Return everything that was said."""
        rate, waveform = self.pipeline.model.codec.sample_rate, np.concatenate([self.prompt_sound, *self.parts])
        prompt_codes = self.pipeline.prefix_codes(self.voice)
        codes = torch.cat([prompt_codes, *(codes.to(prompt_codes.device) for codes in self.codes)], dim=-1)
        seconds = (len(waveform) - len(self.prompt_sound)) / rate
        ended = len(self.spoken) == len(self.pieces) and "max_frames" not in self.stop_reasons
        report = {
            "stop_reason": ("unknown_text" if self.not_spoken else "end") if ended else "max_frames",
            "seed": self.script.seed,
            "prompt_seconds": round(len(self.prompt_sound) / rate, 4),
            "speech_seconds": round(seconds, 4),
            "text_tokens": sum(spoken.report["text_tokens"] for spoken in self.spoken),
            "frames": sum(spoken.report["frames"] for spoken in self.spoken),
            "ar_steps": self.steps,
            **self.seconds,
            "real_time_factor": round(sum(self.seconds.values()) / seconds, 4) if seconds else None,
            "passes": len(self.spoken),
            "pieces": [spoken.report for spoken in self.spoken],
            "not_spoken": [*self.not_spoken, *(piece.text for piece in self.pieces[len(self.spoken):])],
        }
        return Speech(waveform, codes.cpu().numpy(), rate, len(self.prompt_sound), report["stop_reason"], report,
                      tuple(self.spoken))
