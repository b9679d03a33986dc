"""What was spoken is heard, judged, and spoken again from where it went wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from heard import LETTER, Hearing, say
from tiny_tokens import TEXTS, tiny_codec

from stages.config.models import ARConfig, NARConfig, TransformerConfig
from stages.config.stage_configs import SynthConfig
from stages.config.verification import VerificationConfig
from stages.errors import MissingModelError
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.speech import transcriber
from stages.synthesis.model import SpeechModel
from stages.synthesis.pipeline import SpeechPipeline
from stages.synthesis.prompt import encode_prompt
from stages.synthesis.takes import Prefix, Request, Script, Take
from stages.synthesis.verify import Spoken, Verifier, in_short, judge, make_verifier
from stages.text.tokenizer import TextTokenizer

SETTINGS = VerificationConfig()
SCRIPT = "the train left an hour late because of heavy snow and nobody knew when another would come"
GOOD = say(SCRIPT)
SKIPPED = say(SCRIPT.replace("because of heavy snow ", ""))
SKIPPED_LATER = say(SCRIPT.replace("nobody knew when ", ""))
RATE, FRAME_RATE, PROMPT_FRAMES = 8000, 8.0, 16


def noise(seconds):
    return 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)


def spoken(seconds=GOOD.words[-1].end, codes=None, finished=True, sound=None):
    codes = np.arange(round(seconds * FRAME_RATE)) if codes is None else codes
    return Spoken(noise(seconds) if sound is None else sound, RATE, SCRIPT, "good evening to all and welcome",
                  3.0, codes, FRAME_RATE, finished)


def kinds(speech, *heard):
    faults, _ = judge(speech, Hearing(*heard) if heard else None, SETTINGS)
    return [fault.kind for fault in faults]


# ---- judging


def test_with_a_recogniser_words_are_judged_and_without_one_only_what_is_plain():
    assert kinds(spoken(), GOOD) == [] == kinds(spoken())
    assert kinds(spoken(), SKIPPED) == ["skipped"]
    looped = np.concatenate([np.arange(30), np.arange(20, 30), np.arange(30, 40)])
    assert kinds(spoken(codes=looped)) == ["loop"]
    assert kinds(spoken(sound=np.concatenate([noise(3), np.zeros(2 * RATE, np.float32), noise(2)]))) == ["silence"]
    assert kinds(spoken(seconds=1.0)) == ["length"] == kinds(spoken(seconds=30.0))


def test_a_fault_that_two_checks_find_counts_once():
    repeated = say(SCRIPT.replace("heavy snow", "heavy snow because of heavy snow"))
    begin = round(LETTER * len("thetrainleftanhourlate") * FRAME_RATE)
    again = np.arange(begin, begin + 12)
    looped = np.concatenate([np.arange(begin + 12), again, np.arange(100, 130)])
    assert kinds(spoken(seconds=repeated.words[-1].end, codes=looped), repeated) == ["repeated"]


def test_faults_come_in_the_order_of_time():
    late = say(SCRIPT.replace("when another ", ""), start=2.0)
    sound = np.concatenate([np.zeros(2 * RATE, np.float32), noise(late.words[-1].end - 2.0)])
    assert kinds(spoken(sound=sound), late) == ["silence", "skipped"]


def test_the_length_is_judged_by_the_prompts_tempo():
    slow = Spoken(noise(20.0), RATE, SCRIPT, "good evening to all and welcome", 8.0, np.arange(160), FRAME_RATE)
    assert kinds(slow) == [] and kinds(spoken(seconds=20.0)) == ["length"]


def test_speech_that_did_not_end_is_good_up_to_its_last_word():
    long = GOOD.words[-1].end + 1.0
    faults, _ = judge(spoken(seconds=long, finished=False), Hearing(GOOD), SETTINGS)
    assert [(fault.kind, fault.last_good) for fault in faults] == [("unfinished", GOOD.words[-1].end)]
    assert kinds(spoken(seconds=long), GOOD) == []


# ---- speaking again


class FakePipeline:
    """Takes as long as what is heard in them, whose codes tell which take wrote them: 1000 and on, 2000 and on..."""

    def __init__(self, hearing):
        lowest = SimpleNamespace(frame_rate=FRAME_RATE)
        codec = SimpleNamespace(sample_rate=RATE, hierarchy=SimpleNamespace(lowest=lowest))
        self.model = SimpleNamespace(codec=codec)
        self.hearing = hearing
        self.continued, self.sources = [], []

    def first(self):
        return self.take(torch.arange(PROMPT_FRAMES)[None], 1000)

    def take(self, kept, number):
        seconds = self.hearing.transcripts[0].words[-1].end
        total = PROMPT_FRAMES + int(seconds * FRAME_RATE)
        codes = torch.cat([kept, number + torch.arange(total - kept.shape[-1])[None]], dim=1)
        prefix = Prefix("good evening to all and welcome", {}, round(PROMPT_FRAMES / FRAME_RATE * RATE))
        request = Request(SCRIPT, (1,), 1, prefix, codes[:, :PROMPT_FRAMES], 7, 400, 50)
        sound = np.concatenate([noise(PROMPT_FRAMES / FRAME_RATE), noise(seconds)])
        return Take(request, codes, "end", 10, {}, sound, {"ar_seconds": 1.0}, {"passed": "on"})

    def continue_from(self, take, frame, seed):
        self.continued.append((frame - PROMPT_FRAMES, seed))
        self.sources.append(int(take.codes[0, -1]) // 1000)
        return self.take(take.codes[:, :frame], 1000 * (1 + len(self.continued)))


def verify(*heard, attempts=3):
    pipeline = FakePipeline(Hearing(*heard))
    made = Verifier(pipeline.hearing, attempts, SETTINGS)(pipeline, pipeline.first())
    return made, made.notes["verification"], pipeline


def test_a_good_take_stays_as_it_is():
    made, notes, pipeline = verify(GOOD)
    assert pipeline.continued == [] and torch.equal(made.codes, pipeline.first().codes)
    assert notes["chosen"] == 0 and notes["takes"][0]["faults"] == [] and notes["recogniser"] == "told 1"
    assert notes["checks"] == ["words", "silences", "loops", "length"]
    assert made.notes["passed"] == "on" and set(made.seconds) == {"ar_seconds", "verify_seconds"}


def test_a_wrong_take_goes_on_from_its_last_good_frame():
    made, notes, pipeline = verify(SKIPPED, GOOD)
    good = int(LETTER * len("thetrainleftanhourlate") * FRAME_RATE)
    assert [frame for frame, _ in pipeline.continued] == [good]
    kept = PROMPT_FRAMES + good
    assert torch.equal(made.codes[:, :kept], pipeline.first().codes[:, :kept])
    assert made.codes[0, kept] == 2000
    assert notes["chosen"] == 1 and [take["restarted_from_frame"] for take in notes["takes"]] == [None, good]
    assert notes["takes"][1]["restarted_from_seconds"] == good / FRAME_RATE
    fault, = notes["takes"][0]["faults"]
    assert (fault["kind"], fault["text"]) == ("skipped", "because of heavy snow")
    assert fault["start"] == pytest.approx(LETTER * 22, abs=1e-3)
    assert notes["takes"][0]["heard"] == SKIPPED.text


def test_of_two_faults_the_first_says_what_is_good():
    both = say(SCRIPT.replace("because of heavy snow ", "").replace("when another ", ""))
    _, notes, pipeline = verify(both, GOOD)
    assert [fault["kind"] for fault in notes["takes"][0]["faults"]] == ["skipped", "skipped"]
    assert pipeline.continued[0][0] == int(LETTER * len("thetrainleftanhourlate") * FRAME_RATE)


def test_after_so_many_attempts_the_take_with_the_least_wrong_is_kept():
    worse = say(SCRIPT.replace("because of heavy snow and nobody knew ", ""))
    made, notes, pipeline = verify(SKIPPED, worse, SKIPPED_LATER, SKIPPED, attempts=3)
    assert len(pipeline.continued) == 3 and notes["chosen"] == 2
    assert pipeline.sources == [1, 1, 3]  # each goes on from the best so far
    assert 3000 <= made.codes[0, -1] < 4000
    assert [round(take["wrong_seconds"], 2) for take in notes["takes"]] == [
        round(LETTER * letters, 2) for letters in (18, 31, 14, 18)]


def test_of_equal_takes_the_first_is_kept():
    made, notes, pipeline = verify(SKIPPED, SKIPPED, SKIPPED)
    assert notes["chosen"] == 0 and torch.equal(made.codes, pipeline.first().codes)


def test_each_failure_goes_a_second_further_back_and_draws_other_numbers():
    _, _, pipeline = verify(SKIPPED)
    frames, seeds = zip(*pipeline.continued, strict=True)
    good = LETTER * len("thetrainleftanhourlate")
    assert frames == tuple(max(0, int((good - back) * FRAME_RATE)) for back in (0, 1, 2))
    assert len(set(seeds)) == 3
    assert verify(SKIPPED)[2].continued == pipeline.continued


def test_no_attempts_only_report():
    _, notes, pipeline = verify(SKIPPED, attempts=0)
    assert pipeline.continued == [] and len(notes["takes"]) == 1 and notes["takes"][0]["faults"]


def test_a_fault_at_the_very_end_leaves_a_frame_to_draw():
    pipeline = FakePipeline(Hearing(GOOD))
    first = pipeline.first()
    too_much = say(f"{SCRIPT} bananas are yellow")  # the recogniser's last good moment is the end of the sound
    Verifier(Hearing(too_much, GOOD), 1, SETTINGS)(pipeline, first)
    assert [frame for frame, _ in pipeline.continued] == [first.num_frames - 1]


# ---- a recogniser that is not there


def test_without_verify_nothing_is_verified():
    assert make_verifier(SynthConfig()) is None


def test_none_is_no_recogniser_and_the_report_says_so():
    verifier = make_verifier(SynthConfig(verify=True, transcriber="none", verify_attempts=1))
    pipeline = FakePipeline(Hearing(GOOD))
    notes = verifier(pipeline, pipeline.first()).notes["verification"]
    assert notes["recogniser"] == "none: not wanted" and notes["checks"] == ["silences", "loops", "length"]
    assert notes["takes"][0]["heard"] is None


def test_a_recogniser_that_is_not_installed_is_done_without_unless_it_was_chosen(monkeypatch, caplog):
    def missing():
        raise MissingModelError("the recogniser `pocketsphinx` is not installed", "pip install pocketsphinx")

    transcriber.register_transcriber("pocketsphinx", missing)
    try:
        verifier = make_verifier(SynthConfig(verify=True))
    finally:
        transcriber.register_transcriber("pocketsphinx", transcriber.PocketsphinxTranscriber)
    assert verifier.transcriber is None and "is not installed" in verifier.without
    assert "only silences" in caplog.text
    with pytest.raises(MissingModelError):
        make_verifier(SynthConfig(verify=True, transcriber="nowhere.at_all:make"))


# ---- with models


@pytest.fixture(scope="module")
def model():
    codec = tiny_codec("halle")
    small = TransformerConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=32)
    torch.manual_seed(0)
    ar = ARModel(ARConfig(transformer=small, num_codebooks=2, codebook_size=16, text_vocab_size=40)).eval()
    nar = NARModel(NARConfig(transformer=small, num_levels=codec.hierarchy.num_levels, codebook_size=16, latent_dim=8,
                             text_vocab_size=40)).eval()
    return SpeechModel(codec, ar, nar, TextTokenizer.train(TEXTS, vocab_size=40), "halle", 48, 60, None, 1.0, None, {})


def speak(model, *heard):
    config = SynthConfig(max_seconds=2.0, single_pass=True)
    verifier = Verifier(Hearing(*heard), 3, config.verification) if heard else None
    prompt = encode_prompt(noise(3.0).repeat(3), "speaker number nine says hello", model.codec)
    script = Script(SCRIPT, prompt, 3)
    return SpeechPipeline(model, config, verifier).speak_all([script])[0]


def test_models_keep_the_good_frames_and_the_same_seed_verifies_the_same(model):
    first, again = (speak(model, SKIPPED, SKIPPED_LATER) for _ in range(2))
    plain = speak(model)
    notes = first.report["pieces"][0]["verification"]
    assert len(notes["takes"]) == 4 and notes["chosen"] == 1
    assert np.array_equal(first.codes, again.codes) and np.array_equal(first.waveform, again.waveform)
    kept = model.codec.hierarchy.lowest.frame_rate * 3.0 + notes["takes"][1]["restarted_from_frame"]
    assert np.array_equal(first.codes[:, : int(kept)], plain.codes[:, : int(kept)])
    assert not np.array_equal(first.codes, plain.codes)
    assert in_short(first.report) == {"verified": "1 pass, 1 of them spoken again, 1 fault left"}
    assert "ar_seconds" in first.report and first.report["verify_seconds"] > 0
