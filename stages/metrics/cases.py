"""What an evaluation asks to be spoken: texts, the recordings there are of them, and whose voice to speak with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import numpy as np

from stages.artifacts.manifest import Utterance
from stages.config.stage_configs import EvalConfig
from stages.errors import BadInputsError
from stages.metrics.intelligibility import reference_problem
from stages.randomness import derive_seed

UNKNOWN_SPEAKER = "unknown"
_LONGEST_STEM = 180  # of the 255 bytes that a file's name may have, with what is put behind it

SETTING_IN_WORDS: dict[str, str] = {
    "cross-sentence": "prompt: the one that the test set gives, else another utterance of the same speaker; scored: "
    "what was generated",
    "continuation": "prompt: the beginning of the same recording; text: the whole transcript; WER and durations "
    "score prompt plus generated as decoded, similarity the generated part only",
    "reconstruction": "the recording itself, encoded and decoded",
}


@dataclass(frozen=True)
class Case:
    """One text to be spoken, and what the test set has to go with it.

    `recording` is the set's own speech of the text: None in a set that is only texts. `prompt` is speech of the voice
    to speak with: given by the set, or chosen by `plan_cases`. `text` is empty where nobody wrote down what is said.
    `refused` says why the case cannot be evaluated. `extra` holds the set's further columns.
    """

    id: str
    text: str
    speaker: str = UNKNOWN_SPEAKER
    recording: Utterance | None = None
    prompt: Utterance | None = None
    refused: str = ""
    split: str = "test"
    extra: dict = field(default_factory=dict)


def setting_in_words(config: EvalConfig) -> str:
    """Return what the setting means for the reader of a table."""
    scored = (f"each file begins with {config.prompt_seconds:g} s of prompt, which similarity does not hear"
              if config.with_prompt else "all of each file is scored")
    given = f"audio from elsewhere, prompted as its makers say; {scored}"
    if not config.hypotheses or config.setting == "reconstruction":
        return SETTING_IN_WORDS[config.setting]
    ours = config.model or config.codec or config.ar or config.nar
    return f"{SETTING_IN_WORDS[config.setting]}; {given}" if ours else given


def plan_cases(
    cases: Sequence[Case], config: EvalConfig, others: Sequence[Case] = (), speaks: bool = True
) -> list[Case]:
    """Return the cases in order, each with a prompt if the setting needs one; those that cannot be done say why.

    Where the set gives no prompt, another of `cases` by the same speaker is one, else one of `others`. Where nobody
    `speaks`, the audio is there already: a case without a prompt, or without a text, can be judged by what it has.
    """
    here, elsewhere = _by_speaker(cases), _by_speaker(others)
    planned = []
    for case in cases:
        refused, prompt = case.refused or _refusal(case, config, speaks), None
        if not refused and config.setting == "cross-sentence":
            pools = (here[case.speaker], elsewhere.get(case.speaker, []))
            found = (choose_prompt(case, pool, config) for pool in pools)
            prompt = case.prompt or next(filter(None, found), None)
            if speaks and prompt is not None and reference_problem(prompt.text, config.language):
                refused = "what its prompt says is not known: it stands in a .txt beside it, or as prompt_text"
            if prompt is None and speaks:
                refused = (f"speaker `{case.speaker}` has no other utterance of {config.prompt_seconds:g} to "
                           f"{config.max_prompt_seconds:g} s to prompt with")
        planned.append(replace(case, prompt=prompt, refused=refused))
    return planned


def _refusal(case: Case, config: EvalConfig, speaks: bool) -> str:
    """Return why a case cannot be judged, or not spoken in this setting, or ''."""
    if case.text and (problem := reference_problem(case.text, config.language)):
        return problem
    if not speaks:
        return ""
    if config.setting != "reconstruction" and not case.text:
        return "there is no text to speak"
    if config.setting != "cross-sentence" and case.recording is None:
        return f"there is no recording of it, which {config.setting} begins with"
    if config.setting == "continuation" and case.recording.duration <= config.prompt_seconds:
        return f"its {case.recording.duration:.2f} s are not longer than the prompt of {config.prompt_seconds:g} s"
    return ""


def _by_speaker(cases: Sequence[Case]) -> dict[str, list[Case]]:
    grouped: dict[str, list[Case]] = {}
    for case in cases:
        grouped.setdefault(case.speaker, []).append(case)
    return grouped


def choose_prompt(target: Case, candidates: Sequence[Case], config: EvalConfig) -> Utterance | None:
    """Return another recording, neither too short nor too long and of another text; the same for the same seed."""
    suitable = [
        other.recording for other in candidates
        if other.recording and other.id != target.id and other.text.strip() != target.text.strip()
        and config.prompt_seconds <= other.recording.duration <= config.max_prompt_seconds
        and not reference_problem(other.text, config.language)
    ]
    if not suitable:
        return None
    return suitable[derive_seed(config.seed, "prompt", target.id) % len(suitable)]


def without_recording(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the cases, those whose recording or prompt is not there refused."""
    return tuple(case if case.refused or not (lacking := _lacking(case)) else replace(case, refused=lacking)
                 for case in cases)


def _lacking(case: Case) -> str:
    for what, sound in (("recording", case.recording), ("prompt", case.prompt)):
        if sound is not None and not sound.audio.is_file():
            return f"its {what} is not there"
    return ""


def refuse_bad_set(reasons: Iterable[str], total: int, most: int) -> None:
    """Raise `BadInputsError` when more than `most` of `total` utterances cannot be evaluated, for these reasons."""
    reasons = Counter(reasons)
    if reasons.total() > most:
        told = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common(5))
        raise BadInputsError(
            f"expected at most {most} of {total} utterances that cannot be evaluated, "
            f"got {reasons.total()}: {told}", hint="mend the test set, choose another --setting, or raise --max-bad")


def cut_prompt(waveform: np.ndarray, sample_rate: int, seconds: float) -> np.ndarray:
    """Return the first `seconds` of [samples]. Cut before encoding: codes of the whole have seen what follows."""
    return waveform[: round(seconds * sample_rate)]


def file_stem(utterance_id: str) -> str:
    """Return the id as a file name without folders: itself when it is one already, else with %-escapes.

    Of one that is too long for the name of a file, such as a title in Chinese, the beginning and a hash.
    """
    if not utterance_id.strip("."):
        return utterance_id.replace(".", "%2E")
    stem = quote(utterance_id, safe=" ()+,=@[]", errors="surrogatepass")
    if len(stem) <= _LONGEST_STEM:
        return stem
    return f"{stem[: _LONGEST_STEM - 17]}~{hashlib.sha256(stem.encode('ascii')).hexdigest()[:16]}"
