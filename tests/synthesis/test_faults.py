"""Each way in which speech goes wrong, made on purpose."""

import numpy as np
import pytest
from heard import LETTER, say

from stages.config.verification import VerificationConfig
from stages.speech.alignment import align, num_letters, spoken_words, timed_words
from stages.synthesis.faults import Fault, find_loop, find_silences, length_faults, runs, word_faults

SETTINGS = VerificationConfig()
SCRIPT = "the train left an hour late because of heavy snow and nobody on the platform knew when another would come"
PROMPT = "good evening and welcome to the second programme"
RATE = 16_000


def words_of(heard, script=SCRIPT, tail=0.2, pauses=None, silences=(), settings=SETTINGS):
    transcript = say(heard, pauses=pauses)
    seconds = transcript.words[-1].end + tail if transcript.words else 3.0
    aligned = align(spoken_words(script), timed_words(transcript, seconds), seconds, settings.anchor_letters,
                    settings.extra_seconds)
    return word_faults(aligned, spoken_words(script), spoken_words(PROMPT), silences, settings)


def end_of(words):
    return pytest.approx(LETTER * num_letters(words.split()))


def test_speech_as_written_has_no_faults():
    assert words_of(SCRIPT) == []


def test_words_that_a_recogniser_mistakes_are_no_faults():
    heard = SCRIPT.replace("an hour late because", "in our rate be cause").replace("platform knew", "plan for new")
    assert words_of(heard) == []


def test_skipped_words_are_found_and_good_is_what_comes_before():
    fault, = words_of(SCRIPT.replace("because of heavy snow ", ""))
    assert (fault.kind, fault.text) == ("skipped", "because of heavy snow")
    assert fault.last_good == fault.start == end_of("the train left an hour late")
    assert fault.seconds == pytest.approx(LETTER * len("becauseofheavysnow"))


def test_an_end_and_a_beginning_that_are_missing_are_skipped_too():
    fault, = words_of(SCRIPT.removesuffix(" when another would come"))
    assert (fault.kind, fault.text) == ("skipped", "when another would come")
    fault, = words_of(SCRIPT.removeprefix("the train left an hour "))
    assert (fault.kind, fault.last_good) == ("skipped", 0.0)


def test_a_phrase_said_twice_is_repeated():
    fault, = words_of(SCRIPT.replace("heavy snow", "heavy snow because of heavy snow"))
    assert fault.kind == "repeated" and fault.seconds == pytest.approx(LETTER * len("becauseofheavysnow"))
    assert fault.last_good <= LETTER * len("thetrainleftanhourlatebecauseofheavysnow") + 1e-9


def test_a_phrase_that_the_script_repeats_is_none():
    script = "row row row your boat gently down the stream gently down the stream"
    assert words_of(script, script) == []


def test_other_words_are_inserted():
    fault, = words_of(SCRIPT.replace("and nobody", "bananas are yellow fruit and nobody"))
    assert (fault.kind, fault.text) == ("inserted", "bananas are yellow fruit")
    assert fault.last_good == end_of("the train left an hour late because of heavy snow")


def test_sound_without_words_is_inserted_and_a_pause_is_not():
    at = SCRIPT.split().index("nobody")
    fault, = words_of(SCRIPT, pauses={at: 2.0})
    assert fault.kind == "inserted" and fault.seconds == pytest.approx(2.0) and fault.text == ""
    start = LETTER * num_letters(SCRIPT.split()[:at])
    assert words_of(SCRIPT, pauses={at: 2.0}, silences=[Fault("silence", start, start + 2.0, 2.0, start)]) == []
    assert words_of(SCRIPT, pauses={at: 1.0}) == []


def test_a_silence_excuses_its_own_gap_only():
    words = SCRIPT.split()
    first, second = words.index("because"), words.index("nobody")
    begin = LETTER * num_letters(words[:second]) + 2.0
    silence = Fault("silence", begin, begin + 2.0, 2.0, begin)
    fault, = words_of(SCRIPT, pauses={first: 2.0, second: 2.0}, silences=[silence])
    assert fault.last_good == end_of("the train left an hour late")


def test_a_long_mistaken_passage_may_gain_some_letters():
    begin = "a sudden cascade of sparks is lead really"
    script = f"{begin} transmutable into gold a ripe old age"
    heard = f"{begin} transmitted ball into the ground and i paddled aids"
    assert words_of(heard, script) == []
    strict = VerificationConfig(extra_share=0.0)
    assert [fault.kind for fault in words_of(heard, script, settings=strict)] == ["inserted"]


def test_words_of_the_prompt_at_the_beginning_are_leaked():
    fault, = words_of(f"welcome to the second programme {SCRIPT}")
    assert (fault.kind, fault.text, fault.last_good) == ("leaked", "welcome to the second programme", 0.0)


def test_the_prompts_last_word_alone_is_leaked_another_word_is_not_enough():
    fault, = words_of(f"programme {SCRIPT}")
    assert (fault.kind, fault.text) == ("leaked", "programme")
    assert words_of(f"probably {SCRIPT}") == []


def test_the_prompts_words_anywhere_else_have_not_leaked():
    fault, = words_of(f"{SCRIPT} welcome to the second programme")
    assert fault.kind == "inserted"


def test_speech_of_which_nothing_is_understood_is_unclear():
    script = SCRIPT.split()
    fault, = words_of(" ".join("x" * len(word) for word in script))
    assert fault.kind == "unclear" and fault.last_good == 0.0
    quarter = " ".join(word if index < 6 else "x" * len(word) for index, word in enumerate(script))
    assert words_of(quarter) == []


def test_nothing_heard_is_all_skipped():
    fault, = words_of("")
    assert (fault.kind, fault.text) == ("skipped", SCRIPT)


def noise(seconds, level=0.1):
    return level * np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)


def test_long_silences_are_found_and_short_ones_are_not():
    speech = np.concatenate([noise(1), noise(2, 1e-5), noise(1), noise(1, 1e-5), noise(1)])
    silence, = find_silences(speech, RATE, SETTINGS)
    assert (silence.kind, silence.start, silence.end, silence.seconds) == ("silence", 1.0, 3.0, 2.0)
    assert silence.last_good == 1.0


def test_silence_is_judged_beside_the_loudest_moment():
    quiet_room = np.concatenate([noise(1, 0.1), noise(2, 5e-4), noise(1, 0.1)])
    assert len(find_silences(quiet_room, RATE, SETTINGS)) == 1
    assert find_silences(10 * quiet_room, RATE, SETTINGS) == find_silences(quiet_room, RATE, SETTINGS)
    whisper = np.concatenate([noise(1, 0.1), noise(2, 5e-3), noise(1, 0.1)])
    assert find_silences(whisper, RATE, SETTINGS) == []


def test_silence_throughout_is_silence_and_no_sound_at_all_has_none():
    silence, = find_silences(np.zeros(2 * RATE), RATE, SETTINGS)
    assert (silence.start, silence.end) == (0.0, 2.0)
    assert find_silences(np.zeros(0), RATE, SETTINGS) == []


def test_runs_are_those_of_a_loop_over_flags():
    for seed in range(20):
        flags = np.random.default_rng(seed).random(12) < 0.6
        expected, first = [], None
        for index, flag in enumerate([*flags, False]):
            if flag and first is None:
                first = index
            elif not flag and first is not None:
                expected.append((first, index))
                first = None
        assert runs(flags) == expected


def test_a_loop_of_codes_is_found_where_it_comes_again():
    codes = np.arange(40)
    looped = np.concatenate([codes[:20], codes[10:20], codes[10:20], codes[20:]])
    loop, = find_loop(looped, 8.0, SETTINGS)
    assert (loop.kind, loop.start, loop.last_good, loop.end) == ("loop", 10 / 8, 20 / 8, 40 / 8)
    assert loop.seconds == 20 / 8


def test_a_code_that_never_changes_is_a_loop():
    loop, = find_loop(np.concatenate([np.arange(5), np.full(9, 77)]), 8.0, SETTINGS)
    assert (loop.start, loop.last_good, loop.end) == (5 / 8, 6 / 8, 14 / 8)


def test_half_a_second_that_comes_again_and_codes_without_repeats_are_no_loops():
    codes = np.arange(40)
    assert find_loop(np.concatenate([codes[:20], codes[10:14], codes[20:]]), 8.0, SETTINGS) == []
    assert find_loop(codes, 8.0, SETTINGS) == []
    assert find_loop(codes[:3], 8.0, SETTINGS) == []


@pytest.mark.parametrize("seconds, wrong", [(3.9, 4.1), (4.1, None), (15.9, None), (16.1, 8.1)])
def test_speech_at_less_than_half_or_more_than_twice_the_tempo_is_wrong(seconds, wrong):
    faults = length_faults(seconds, 100, 0.08, SETTINGS)
    assert [(fault.kind, fault.last_good, round(fault.seconds, 6)) for fault in faults] == (
        [] if wrong is None else [("length", 0.0, wrong)])
