"""From who speaks when and every word's time to utterances of one speaker, each second of a recording accounted for.

    turns     A-----------------------A   B--------B    A---------A
    words      one two   three  four           five        six
    utterances [one two] [three four]        [five]        [six]         3 to 90 or 180 s each (section 6)

An utterance goes on over a speaker's consecutive turns. It begins and ends in a pause, and a run that is too long is
cut in as few and as long pauses as possible. What is left out has a reason, and all together tile the recording.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stages.curation.pauses import Cutter, Edge, Quietest, Track, middle
from stages.speech.spans import Span, Turn, intersect, subtract, union
from stages.speech.transcriber import Word

BAD_SEGMENT, NO_SPEECH, NO_TEXT, NO_SPEAKER = "BAD_SEGMENT", "NO_SPEECH", "NO_TEXT", "NO_SPEAKER"
OVERLAP, NO_PAUSE, TOO_SHORT, TOO_LONG = "OVERLAP", "NO_PAUSE", "TOO_SHORT", "TOO_LONG"
_FOREIGN = 0.25  # seconds of another speaker that make a word, or the time between two, not one speaker's
_NEAR = 0.5  # seconds from a turn in which a word without a turn counts to it: diarization is no more exact
_ABRUPT = 0.3  # seconds between a word and the beginning or end of a recording that was cut close
_CLEAN = 0.15  # seconds of pause without which an utterance neither begins nor ends
_SHARE = 0.1  # seconds added to a pause in what a cut costs: longer ones are little better than two seconds
_LOST = 1000.0  # a second that is too much or too little for an utterance costs more than any cut


@dataclass(frozen=True)
class CutRules:
    """What an utterance is. Seconds."""

    min_seconds: float = 3.0
    max_seconds: float = 90.0
    margin: float = 0.2  # of silence around it
    max_pause: float = 2.0  # within it
    max_unheard: float = 1.0  # speech in one place of it in which no word was recognised
    time_error: float = 0.05  # of words
    handover: float = 0.0  # between two speakers' words, in which one may have begun before the other's end, unheard


@dataclass(frozen=True)
class Utterance:
    start: float
    end: float
    speaker: str
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True)
class Dropped:
    """A stretch that no utterance holds, and why; a bad segment is one of no length where it was named."""

    start: float
    end: float
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Cut:
    """Utterances and what was dropped, in order; together they tile the recording without overlap."""

    utterances: list[Utterance]
    dropped: list[Dropped]


def cut_utterances(seconds: float, speech: Sequence[Span], turns: Iterable[Turn], words: Iterable[Word],
                   rules: CutRules, quietest: Quietest = middle, refused: Sequence[Dropped] = ()) -> Cut:
    """Cut a recording of `seconds` into utterances.

    `speech` is a set of spans in which somebody speaks, `refused` are stretches whose words were not to be believed.
    Words may be whole sentences, which are not cut.
    """
    turns, bad_turns = sound_turns(turns, seconds)
    words, bad_words = sound_words(words, seconds)
    scene = _Scene(seconds, intersect(union(speech), [Span(0.0, seconds)]), turns, refused, rules, quietest)
    owners = [scene.owner(word) for word in words]
    edges = list(scene.edges(words, owners))
    pieces: list[Utterance | Dropped] = []
    for first, end in _runs(words, owners, scene, edges):
        cuts = partition([edge.start for edge in edges[first:end]], [edge.end for edge in edges[first + 1 : end + 1]],
                         [edge.pause for edge in edges[first + 1 : end]], rules)
        for i, j in pairwise([first, *(first + cut for cut in cuts), end]):
            pieces.append(_piece(edges[i].start, edges[j].end, owners[i], tuple(words[i:j]), rules))
    reasons = scene.reasons(words, owners)
    dropped = [piece for piece in pieces if isinstance(piece, Dropped)]
    dropped += [drop for span in _between(pieces, seconds) for drop in _explain(span, reasons)]
    bad = bad_turns + bad_words
    return Cut([piece for piece in pieces if isinstance(piece, Utterance)],
               sorted([*dropped, *bad], key=lambda drop: (drop.start, drop.end)))


def _piece(start: float, end: float, speaker: str, words: tuple[Word, ...], rules: CutRules) -> Utterance | Dropped:
    length = end - start
    if length < rules.min_seconds:
        return Dropped(start, end, TOO_SHORT, f"expected at least {rules.min_seconds:g} s, got {length:.2f}")
    if length > rules.max_seconds:
        return Dropped(start, end, TOO_LONG, f"expected at most {rules.max_seconds:g} s, got {length:.2f}")
    return Utterance(start, end, speaker, words)


# ---- what diarizers, recognisers and people may get wrong


def sound_turns(turns: Iterable[Turn], seconds: float) -> tuple[list[Turn], list[Dropped]]:
    """Return the turns that can be, without those of no or negative length or outside of the recording.

    Turns of one speaker that overlap are one, and the later counts as bad too.
    """
    good, bad = [], []
    for turn in sorted(turns):
        start, end = max(0.0, turn.start), min(turn.end, seconds)
        last = next((other for other in reversed(good) if other.speaker == turn.speaker), None)
        if not start < end:
            bad.append(_bad(turn.start, turn.end, seconds, f"turn of {turn.speaker}"))
            continue
        if last is not None and start < last.end:
            bad.append(_bad(turn.start, turn.end, seconds, f"turn of {turn.speaker} within another"))
            start = last.end
        if start < end:
            good.append(Turn(start, end, turn.speaker))
    return good, bad


def sound_words(words: Iterable[Word], seconds: float) -> tuple[list[Word], list[Dropped]]:
    """Return the words that can be, in order and none before the end of the last; words may have no length."""
    good: list[Word] = []
    bad = []
    for word in sorted(words, key=lambda word: (word.start, word.end)):
        start, end = max(0.0, word.start), min(word.end, seconds)
        if start > end:
            bad.append(_bad(word.start, word.end, seconds, f"`{word.text[:20]}`"))
            continue
        start = max(start, good[-1].end) if good else start
        good.append(Word(word.text, start, max(start, end)))
    return good, bad


def _bad(start: float, end: float, seconds: float, what: str) -> Dropped:
    at = min(max(start, 0.0), seconds)
    return Dropped(at, at, BAD_SEGMENT, f"{what} from {start:g} to {end:g} s")


def overlaps(turns: Iterable[Turn]) -> list[Span]:
    """Return the set in which several speakers talk."""
    by_speaker = _by_speaker(turns)
    both: list[Span] = []
    anybody: list[Span] = []
    for spans in by_speaker.values():
        both, anybody = union([*both, *intersect(anybody, spans)]), union([*anybody, *spans])
    return both


def _by_speaker(turns: Iterable[Turn]) -> dict[str, list[Span]]:
    spans: dict[str, list[Span]] = defaultdict(list)
    for turn in turns:
        spans[turn.speaker].append(turn.span)
    return {speaker: union(own) for speaker, own in spans.items()}


# ---- who says what


class _Scene:
    """What is known of a recording besides its words."""

    def __init__(self, seconds: float, speech: list[Span], turns: list[Turn], refused: Sequence[Dropped],
                 rules: CutRules, quietest: Quietest):
        self.seconds, self.rules = seconds, rules
        overlap = overlaps(turns)
        spans = _by_speaker(turns)
        self._turns = sorted(Turn(span.start, span.end, speaker) for speaker, own in spans.items()
                             for span in subtract(own, overlap))
        self.speech, self.overlap = Track(speech), Track(overlap)
        self._alone = Track([turn.span for turn in self._turns])
        self._refused = sorted(refused, key=lambda drop: drop.start)
        self._unusable = Track(union([Span(drop.start, drop.end) for drop in refused]))
        self._who = {turn.span: turn.speaker for turn in self._turns}
        self._starts = np.array([turn.start for turn in self._turns])
        self._cutter = Cutter(self.speech, quietest, rules.margin, rules.time_error)

    def owner(self, word: Word) -> str:
        """Return the speaker of a word, empty when there are several or none."""
        if self._is_unusable(word.start, word.end):
            return ""
        heard: dict[str, float] = defaultdict(float)
        for turn in self._near(word.start, word.end):
            heard[turn.speaker] += max(0.0, min(turn.end, word.end) - max(turn.start, word.start))
        ranked = sorted(heard, key=lambda speaker: -heard[speaker])
        if not ranked:
            return ""
        if heard[ranked[0]] > 0:
            return "" if len(ranked) > 1 and heard[ranked[1]] > _FOREIGN else ranked[0]
        return self._nearest(word)

    def _is_unusable(self, start: float, end: float) -> bool:
        overlapped = self.overlap.seconds(start, end)
        return overlapped > min(_FOREIGN, (end - start) / 2) or self._unusable.seconds(start, end) > 0

    def _near(self, start: float, end: float) -> list[Turn]:
        first = int(np.searchsorted(self._starts, start - _NEAR)) - 1
        last = int(np.searchsorted(self._starts, end + _NEAR))
        return [turn for turn in self._turns[max(0, first) : last] if turn.end > start - _NEAR]

    def _nearest(self, word: Word) -> str:
        def distance(turn: Turn) -> float:
            return max(turn.start - word.end, word.start - turn.end)

        nearest = min(self._near(word.start, word.end), key=distance)
        return nearest.speaker if distance(nearest) <= _NEAR else ""

    def obstacle(self, start: float, end: float, speakers: tuple[str, ...]) -> Span | None:
        """Return from the first to the last moment in which others than `speakers` are heard, None if it is brief."""
        others = [Span(max(turn.start, start), min(turn.end, end)) for turn in self._near(start, end)
                  if turn.speaker not in speakers and turn.start < end and turn.end > start]
        found = [*others, *self.overlap.within(start, end), *self._unusable.within(start, end)]
        if sum(span.seconds for span in union(found)) <= _FOREIGN:
            return None
        return Span(min(span.start for span in found), max(span.end for span in found))

    def handed_over(self, first: Word, last: Word, speaker: str) -> tuple[bool, bool]:
        """Tell whether others talk shortly before the first of a speaker's words, and shortly after the last."""
        before, after = first.start - self.rules.handover, last.end + self.rules.handover
        return (any(turn.speaker != speaker and before < turn.end and turn.start < first.start
                    for turn in self._near(before, first.start)),
                any(turn.speaker != speaker and turn.start < after and last.end < turn.end
                    for turn in self._near(last.end, after)))

    def edges(self, words: Sequence[Word], owners: Sequence[str]) -> Iterator[Edge]:
        """Yield the edge before every word, and that after the last one.

        Where a recording begins or ends close to a word, that is as clean a border as a pause.
        """
        before, last = Span(0.0, 0.0), ""
        for index, (word, speaker) in enumerate(zip([*words, Word("", self.seconds, self.seconds)], [*owners, ""],
                                                    strict=True)):
            here = Span(word.start, word.end)
            edge = self._edge(before, last, here, speaker, at_border=index in (0, len(words)))
            end, start = (min(max(round(time, 3), 0.0), self.seconds) for time in (edge.end, edge.start))
            yield Edge(end, max(end, start), edge.left, edge.right)
            before, last = here, speaker

    def _edge(self, before: Span, last: str, here: Span, speaker: str, at_border: bool) -> Edge:
        other = self.obstacle(before.end, here.start, (last, speaker))
        if other is None and at_border:
            border = self.seconds if here.start == self.seconds else 0.0
            if here.start - before.end <= _ABRUPT:
                return Edge(border, border, _CLEAN, _CLEAN)
            other = Span(border, border)
        return self._cutter.around(before, other, here) if other else self._cutter.between(before, here)

    def joins(self, left: Word, right: Word, speaker: str) -> bool:
        """Tell whether an utterance may go on from one word of a speaker to the next."""
        return (right.start - left.end <= self.rules.max_pause
                and self.speech.seconds(left.end, right.start) <= self.rules.max_unheard
                and self.obstacle(left.end, right.start, (speaker,)) is None)

    def reasons(self, words: Sequence[Word], owners: Sequence[str]) -> dict[str, Track]:
        """Return what speaks against each moment, the most telling first: overlap, then refused words..."""
        sets: dict[str, list[Span]] = {OVERLAP: list(self.overlap.within(0.0, self.seconds))}
        for drop in self._refused:
            sets.setdefault(drop.reason, []).append(Span(drop.start, drop.end))
        for word, speaker in zip(words, owners, strict=True):
            if not speaker:
                overlapped = self._near(word.start, word.end) or self.overlap.seconds(word.start, word.end)
                sets.setdefault(OVERLAP if overlapped else NO_SPEAKER, []).append(Span(word.start, word.end))
        owned = [Span(word.start, word.end) for word, speaker in zip(words, owners, strict=True) if speaker]
        sets[NO_PAUSE] = owned
        sets[NO_TEXT] = list(self.speech.within(0.0, self.seconds))
        taken: list[Span] = []
        found = {}
        for reason, spans in sets.items():
            found[reason] = Track(subtract(union(spans), taken))
            taken = union([*taken, *spans])
        return found


def _runs(words: Sequence[Word], owners: Sequence[str], scene: _Scene, edges: Sequence[Edge],
          ) -> Iterator[tuple[int, int]]:
    """Yield (first, end) words of what one speaker says, from one clean pause to another."""
    first = 0
    for index in range(1, len(words) + 1):
        if index < len(words) and owners[index] == owners[first] and \
                scene.joins(words[index - 1], words[index], owners[first]):
            continue
        if owners[first]:
            run = _trim(first, index, edges, *scene.handed_over(words[first], words[index - 1], owners[first]))
            if run[0] < run[1]:
                yield run
        first = index


def _trim(first: int, end: int, edges: Sequence[Edge], taken_over: bool, handed_over: bool) -> tuple[int, int]:
    """Leave out words up to the first pause and after the last one: without a pause, two may talk at once there.

    Where somebody else talked shortly before, or does so shortly after, words up to the next pause are left out too.
    """
    first, end = first + taken_over, end - handed_over
    while first < end and edges[first].right < _CLEAN:
        first += 1
    while first < end and edges[end].left < _CLEAN:
        end -= 1
    return first, end


# ---- where a run is cut


def partition(starts: Sequence[float], ends: Sequence[float], pauses: Sequence[float], rules: CutRules) -> list[int]:
    """Return before which words a run is cut: as few cuts in as long pauses as give lengths that are allowed.

    Word i, if first, makes a piece begin at `starts[i]`, if last, end at `ends[i]`; `pauses[i]` is what lies between
    words i and i + 1. A cut costs 1 / (pause + 0.1); the cheapest set of cuts is found by dynamic programming. Seconds
    in pieces of other lengths are lost, which costs more than any cuts do.
    """
    begin, finish = np.asarray(starts), np.asarray(ends)
    price = np.concatenate([[0.0], 1.0 / (np.asarray(pauses) + _SHARE)])  # of beginning with each word
    best, back = np.full(len(begin) + 1, np.inf), np.zeros(len(begin) + 1, dtype=int)
    best[0] = 0.0
    for j in range(1, len(begin) + 1):
        first = min(int(np.searchsorted(begin[:j], finish[j - 1] - rules.max_seconds)), j - 1)
        lengths = finish[j - 1] - begin[first:j]
        lost = np.where((lengths < rules.min_seconds) | (lengths > rules.max_seconds), lengths, 0.0)
        costs = best[first:j] + price[first:j] + _LOST * lost
        back[j] = first + int(np.argmin(costs))
        best[j] = costs[back[j] - first]
    cuts, j = [], int(back[-1])
    while j > 0:
        cuts.append(j)
        j = int(back[j])
    return cuts[::-1]


# ---- what is left


def _between(pieces: Sequence[Utterance | Dropped], seconds: float) -> Iterator[Span]:
    edges = [0.0, *(edge for piece in pieces for edge in (piece.start, piece.end)), seconds]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if start < end:
            yield Span(start, end)


def _explain(span: Span, reasons: dict[str, Track]) -> Iterator[Dropped]:
    """Give each stretch in which somebody speaks the reason that holds for most of it; elsewhere nobody does."""
    parts = (part for track in reasons.values() for part in track.within(span.start, span.end))
    spoken = [part for part in union(parts, gap=_NEAR) if part.seconds > _FOREIGN]
    for part in spoken:
        seconds = {reason: track.seconds(part.start, part.end) for reason, track in reasons.items()}
        yield Dropped(part.start, part.end, max(seconds, key=lambda reason: seconds[reason]))
    for rest in subtract([span], spoken):
        yield Dropped(rest.start, rest.end, NO_SPEECH)
