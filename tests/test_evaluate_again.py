"""An evaluation that is run again makes nothing anew and measures only what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tone_speech import (
    RATE,
    TEXTS,
    FakeCodec,
    FakePipeline,
    ToneReader,
    make_hypotheses,
    make_set,
    read,
    settings,
)

from stages import evaluate
from stages.artifacts.storage import sha256_file
from stages.errors import BadInputsError, UsageError
from stages.metrics import registry
from stages.metrics.base import Measurement, Metric
from stages.speech import transcriber
from stages.synthesis import sources
from stages.synthesis.sources import Prompter, Source


class Loudness(Metric):
    """A metric that counts what it measured."""

    name, label, better = "peak", "peak", "higher"

    def __init__(self, scale=1.0):
        self.scale, self.measured = scale, []

    def settings(self):
        return f"times {self.scale}"

    def measure(self, item):
        self.measured.append(item)
        value = float(abs(item.waveform).max()) * self.scale
        return Measurement(value, numbers={"value": value}, details={"curve": [value]})


@pytest.fixture(autouse=True)
def listeners(monkeypatch):
    """Two recognisers of one hearing, and what each was asked to hear."""
    asked = {"tone-reader": [], "other-reader": []}

    def make(name):
        reader = type("Reader", (ToneReader,), {"name": name})()
        hear = reader.transcribe
        reader.transcribe = lambda *sound: asked[name].append(len(sound[0])) or hear(*sound)
        return reader

    for name in asked:
        monkeypatch.setitem(transcriber._TRANSCRIBERS, name, lambda name=name: make(name))
    return asked


@pytest.fixture
def peak(monkeypatch):
    metric = Loudness()
    monkeypatch.setitem(registry._METRICS, "peak", metric)
    return metric


@pytest.fixture
def speaker(monkeypatch):
    """A model that a test can ask for as `--model fake`; its pipeline tells what it was asked to say."""
    pipeline = FakePipeline(seconds=2.0)

    def model_source(config):
        return Source("fake", "a fake", "f" * 64, lambda _: Prompter(pipeline, FakeCodec(), config), speaks=True,
                      batch_size=config.batch_size)

    monkeypatch.setattr(sources, "model_source", model_source)
    return pipeline


@pytest.fixture
def two_systems(tmp_path):
    """`right` says every text, `wrong` says the next one."""
    make_set(tmp_path / "set", count=4)
    make_hypotheses(tmp_path / "right", {f"u{i}": (i, 3.25 + i) for i in range(4)})
    make_hypotheses(tmp_path / "wrong", {f"u{i}": (i + 1, 4.35 + i) for i in range(4)})
    return str(tmp_path / "right"), str(tmp_path / "wrong")


def score(tmp_path, *hypotheses, **changes):
    return evaluate.run(settings(tmp_path, **{"hypotheses": hypotheses, "metrics": ("wer",)} | changes))


def wer_of(tmp_path):
    return {name: system["scores"]["wer"]["value"] for name, system in read(tmp_path)[0]["systems"].items()}


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.wav")}


def test_another_metric_hears_nothing_again_and_measures_only_itself(tmp_path, two_systems, listeners, peak):
    right, _ = two_systems
    score(tmp_path, right)
    heard, audio, before = len(listeners["tone-reader"]), files_below(tmp_path / "out"), wer_of(tmp_path)
    assert heard == 8  # 4 recordings, 4 outputs
    score(tmp_path, right, metrics=("wer", "peak"))
    assert len(listeners["tone-reader"]) == heard and len(peak.measured) == 8
    assert files_below(tmp_path / "out") == audio and wer_of(tmp_path) == before
    assert read(tmp_path)[1]["u0"]["systems"]["right"]["metrics"]["peak"]["details"]["curve"]
    score(tmp_path, right, metrics=("peak",))
    assert len(peak.measured) == 8


def test_another_recogniser_hears_everything_once_and_the_first_is_not_forgotten(tmp_path, two_systems, listeners,
                                                                                 peak):
    right, _ = two_systems
    both = {"metrics": ("wer", "peak")}
    score(tmp_path, right, **both)
    score(tmp_path, right, transcriber="other-reader", **both)
    assert (len(listeners["tone-reader"]), len(listeners["other-reader"]), len(peak.measured)) == (8, 8, 8)
    assert read(tmp_path)[0]["metrics"]["wer"]["label"] == "WER (other-reader), %"
    score(tmp_path, right, **both)
    assert len(listeners["tone-reader"]) == 8
    assert read(tmp_path)[0]["recogniser"]["name"] == "tone-reader"
    kept = [json.loads(line) for line in (tmp_path / "out" / "transcripts.jsonl").read_text("utf-8").splitlines()]
    assert sorted({line["recogniser"] for line in kept}) == ["other-reader", "tone-reader"]
    recorded = sha256_file(tmp_path / "out" / "recordings" / "u2.wav")
    assert {line["text"] for line in kept if line["audio_sha256"] == recorded} == {TEXTS[2]}


def test_a_further_system_is_added_and_the_first_is_left_alone(tmp_path, two_systems, listeners):
    right, wrong = two_systems
    score(tmp_path, right)
    audio = files_below(tmp_path / "out")
    score(tmp_path, right, wrong)
    assert len(listeners["tone-reader"]) == 12
    assert audio.items() <= files_below(tmp_path / "out").items()
    assert list(read(tmp_path)[0]["systems"]) == ["recordings", "right", "wrong"]
    assert wer_of(tmp_path)["right"] == 0.0 < wer_of(tmp_path)["wrong"]
    pairs = {(found["system"], found["against"]) for found in read(tmp_path)[0]["differences"]}
    assert ("wrong", "right") in pairs


def test_hypotheses_have_the_names_that_they_are_given(tmp_path, two_systems):
    told = score(tmp_path, *two_systems, names=("A / B", "C"))
    assert list(told["systems"]) == ["recordings", "A / B", "C"]
    assert (tmp_path / "out" / "audio" / "A %2F B" / "u0.wav").is_file()
    with pytest.raises(ValueError, match="a --name for each of 2 --hypotheses, got 1"):
        settings(tmp_path, hypotheses=two_systems, names=("A",))
    with pytest.raises(UsageError, match="different systems, got `audio in"):
        score(tmp_path, two_systems[0], two_systems[0])


def test_a_model_is_scored_beside_other_peoples_audio(tmp_path, two_systems, speaker):
    right, wrong = two_systems
    score(tmp_path, wrong)
    score(tmp_path, wrong, model="fake")
    assert len(speaker.asked) == 4
    scores, rows = read(tmp_path)
    assert list(scores["systems"]) == ["recordings", "fake", "wrong"]
    assert wer_of(tmp_path)["fake"] == 0.0
    score(tmp_path, wrong, right, model="fake")
    assert len(speaker.asked) == 4
    of_model, of_others = (rows["u0"]["systems"][name] for name in ("fake", "wrong"))
    assert of_model["seconds_to_make"] > 0 and of_model["peak_memory"] >= 0
    assert of_others["seconds_to_make"] is None and of_others["peak_memory"] is None


def test_changed_hypothesis_files_are_scored_anew_and_no_others(tmp_path, two_systems, listeners):
    right, _ = two_systems
    score(tmp_path, right)
    audio = files_below(tmp_path / "out")
    make_hypotheses(Path(right), {"u1": (3, 4.0)})
    score(tmp_path, right)
    assert len(listeners["tone-reader"]) == 9
    now = files_below(tmp_path / "out")
    assert {name for name in now if now[name] != audio[name]} == {"audio/right/u1.wav"}
    rows = read(tmp_path)[1]
    assert rows["u1"]["systems"]["right"]["heard"] == TEXTS[3] and rows["u0"]["systems"]["right"]["heard"] == TEXTS[0]
    (Path(right) / "u2.wav").unlink()
    score(tmp_path, right)
    gone = read(tmp_path)[1]["u2"]["systems"]["right"]
    assert (gone["status"], gone["audio"], gone["metrics"]["wer"]["value"]) == ("missing", None, 100.0)
    assert not (tmp_path / "out" / "audio" / "right" / "u2.wav").exists() and len(listeners["tone-reader"]) == 9


def test_a_metric_of_other_settings_is_measured_again(tmp_path, two_systems, monkeypatch, peak):
    right, _ = two_systems
    score(tmp_path, right, metrics=("peak",))
    twice = Loudness(scale=2.0)
    monkeypatch.setitem(registry._METRICS, "peak", twice)
    score(tmp_path, right, metrics=("peak",))
    assert len(twice.measured) == 8
    assert read(tmp_path)[0]["systems"]["right"]["scores"]["peak"]["value"] == pytest.approx(1.0, abs=0.01)


def test_a_metric_that_could_not_run_is_measured_when_it_can(tmp_path, two_systems, monkeypatch, peak):
    right, _ = two_systems
    with monkeypatch.context() as without:
        without.setattr(Loudness, "unavailable", lambda metric: "its package is not installed")
        score(tmp_path, right, metrics=("peak",))
        assert read(tmp_path)[0]["systems"]["right"]["scores"]["peak"]["value"] is None
        told = evaluate.plan(settings(tmp_path, hypotheses=(right,), metrics=("peak", "wer")))
        assert (told["metrics"], told["unavailable"]) == (["wer"], {"peak": "its package is not installed"})
    score(tmp_path, right, metrics=("peak",))
    assert len(peak.measured) == 8
    assert read(tmp_path)[0]["systems"]["right"]["scores"]["peak"]["denominator"] == 4


def test_every_take_is_a_row_with_another_seed_and_the_same_prompt(tmp_path, two_systems, speaker, listeners):
    score(tmp_path, two_systems[0], model="fake", seeds=2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text("utf-8").splitlines()]
    assert [(row["id"], row["take"]) for row in rows] == [(f"u{i}", take) for i in range(4) for take in (1, 2)]
    assert {tuple(row["systems"]) for row in rows if row["take"] == 1} == {("recordings", "fake", "right")}
    assert {tuple(row["systems"]) for row in rows if row["take"] == 2} == {("fake",)}
    assert rows[1]["systems"]["fake"]["audio"] == "audio/fake/u0.take2.wav"
    assert len({asked.seed for asked in speaker.asked}) == len(speaker.asked) == 8
    prompts = {}
    for asked in speaker.asked:
        prompts.setdefault(asked.text, set()).add(asked.prompt.name)
    assert [len(names) for names in prompts.values()] == [1] * 4
    scores = read(tmp_path)[0]
    assert (scores["seeds"], scores["set"]["evaluated"]) == (2, 4)
    assert (scores["systems"]["fake"]["counts"]["scored"], scores["systems"]["right"]["counts"]["scored"]) == (8, 4)


def test_more_takes_speak_only_those_that_are_new(tmp_path, two_systems, speaker):
    make_once = {"model": "fake", "hypotheses": ()}
    score(tmp_path, **make_once)
    first = [asked.seed for asked in speaker.asked]
    score(tmp_path, seeds=3, **make_once)
    assert len(speaker.asked) == 12 and not set(first) & {asked.seed for asked in speaker.asked[4:]}
    score(tmp_path, **make_once)
    assert len(speaker.asked) == 12 and len(read(tmp_path)[1]) == 4


def sounds_of(folder):
    return {file.name: sha256_file(file) for file in (folder / "audio" / "fake").glob("*.wav")}


def test_texts_that_are_spoken_together_are_those_spoken_alone_and_nobody_timed_them(tmp_path, two_systems, speaker):
    wanted = {"hypotheses": (), "model": "fake", "metrics": ("wer", "real_time_factor")}
    score(tmp_path, **wanted, out=str(tmp_path / "alone"))
    score(tmp_path, **wanted, batch_size=3)
    assert speaker.together == [3] and len(speaker.asked) == 8
    lengths = [len(asked.text) for asked in speaker.asked[4:]]
    assert lengths == sorted(lengths)
    assert sounds_of(tmp_path / "out") == sounds_of(tmp_path / "alone")
    for folder, timed in (("alone", True), ("out", False)):
        told = json.loads((tmp_path / folder / "scores.json").read_text(encoding="utf-8"))
        scores = told["systems"]["fake"]["scores"]
        assert scores["wer"]["denominator"] == 4
        assert (scores["real_time_factor"]["value"] is not None) == timed
    score(tmp_path, **wanted, batch_size=2)
    assert len(speaker.asked) == 8  # how many at once is no other speech


def test_when_texts_fail_together_they_are_spoken_one_by_one(tmp_path, two_systems, speaker, monkeypatch):
    speak, bad = speaker.speak, TEXTS[2]

    def fail_at_one(text, prompt, seed):
        if text == bad:
            raise UsageError("no such sound")
        return speak(text, prompt, seed)

    monkeypatch.setattr(speaker, "speak", fail_at_one)
    score(tmp_path, hypotheses=(), model="fake", batch_size=4)
    rows = read(tmp_path)[1]
    found = {name: row["systems"]["fake"]["status"] for name, row in rows.items()}
    assert found == {"u0": "scored", "u1": "scored", "u2": "failed", "u3": "scored"}


def test_a_model_is_not_loaded_when_all_was_said(tmp_path, two_systems, speaker, monkeypatch, peak):
    score(tmp_path, model="fake", hypotheses=())
    monkeypatch.setattr(sources, "model_source", lambda config: Source(
        "fake", "a fake", "f" * 64, lambda device: pytest.fail("the model was loaded"), speaks=True))
    score(tmp_path, model="fake", hypotheses=(), metrics=("wer", "peak"))
    assert len(peak.measured) == 8


def write_transcripts(file, sounds, recogniser="nemo", **changes):
    lines = [{"audio_sha256": sha256_file(sound), "recogniser": recogniser, "version": "7", "text": TEXTS[0],
              "words": [["alpha", 0.25, 0.5]]} | changes for sound in sounds]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(file)


def test_given_transcripts_take_the_place_of_a_recogniser_and_name_their_own(tmp_path, two_systems, listeners):
    right, _ = two_systems
    score(tmp_path, right)
    sounds = sorted((tmp_path / "out").rglob("*.wav"))
    files = [write_transcripts(tmp_path / f"{part}.jsonl", sounds[part::2]) for part in (0, 1)]
    score(tmp_path, right, transcripts=files)
    scores, rows = read(tmp_path)
    assert scores["recogniser"] == {"name": "nemo", "version": "7"} and len(listeners["tone-reader"]) == 8
    assert scores["metrics"]["wer"]["label"] == "WER (nemo), %"
    entry = rows["u1"]["systems"]["right"]
    assert (entry["heard"], entry["heard_words"]) == (TEXTS[0], [["alpha", 0.25, 0.5]])
    assert entry["metrics"]["wer"]["value"] > 0.0 == rows["u0"]["systems"]["right"]["metrics"]["wer"]["value"]


def test_sounds_without_a_given_transcript_are_counted_before_anything_is_scored(tmp_path, two_systems):
    right, _ = two_systems
    given = [write_transcripts(tmp_path / "given.jsonl", (tmp_path / "set" / "clips").glob("*.wav"))]
    with pytest.raises(BadInputsError, match=r"of all 8 sounds in .*given.jsonl`, 4 of them have none") as refused:
        score(tmp_path, right, transcripts=given)
    assert "audio/" in refused.value.hint and not (tmp_path / "out" / "scores.json").exists()
    write_transcripts(tmp_path / "given.jsonl", sorted((tmp_path / "out").rglob("*.wav")))
    score(tmp_path, right, transcripts=given)
    assert read(tmp_path)[0]["systems"]["right"]["scores"]["wer"]["denominator"] == 4


@pytest.mark.parametrize("change, message", [
    ({"audio_sha256": "abc"}, "line 1: `audio_sha256` should be 64 hexadecimal digits, got `abc`"),
    ({"text": None}, "`text` should be text, got `None`"),
    ({"recogniser": 7}, "`recogniser` should be text, got `7`"),
    ({"words": [["alpha", "0.1", 2]]}, r"`words` should be a list of \[word, start, end\]"),
    ({"words": [["alpha", float("nan"), 2]]}, "given.jsonl:1: not JSON: NaN is no number that can be kept"),
    ({"text": "half \ud800"}, "`text` has half a character"),
])
def test_a_file_of_transcripts_that_is_wrong_says_where(tmp_path, two_systems, change, message):
    file = write_transcripts(tmp_path / "given.jsonl", [tmp_path / "set" / "clips" / "u0.wav"], **change)
    with pytest.raises(UsageError, match=message):
        score(tmp_path, two_systems[0], transcripts=[file])


def test_transcripts_of_two_recognisers_are_not_mixed(tmp_path, two_systems):
    sound = [tmp_path / "set" / "clips" / "u0.wav"]
    files = [write_transcripts(tmp_path / f"{name}.jsonl", sound, name) for name in ("nemo", "whisper")]
    with pytest.raises(UsageError, match="of one recogniser after --transcripts, got `nemo 7`, `whisper 7`"):
        score(tmp_path, two_systems[0], transcripts=files)


def test_what_is_scored_is_the_16_bit_file_on_disk(tmp_path, two_systems, peak):
    make_hypotheses(tmp_path / "right", {"u0": (0, 3.0)})
    loud = Path(two_systems[0]) / "u0.wav"
    import soundfile

    samples, _ = soundfile.read(loud, dtype="float32")
    soundfile.write(loud, samples * 3.0, RATE, subtype="FLOAT")  # beyond full scale
    score(tmp_path, two_systems[0], metrics=("peak",))
    entry = read(tmp_path)[1]["u0"]["systems"]["right"]
    kept = tmp_path / "out" / entry["audio"]
    assert soundfile.info(kept).subtype == "PCM_16" and entry["audio_sha256"] == sha256_file(kept)
    assert entry["metrics"]["peak"]["value"] == pytest.approx(1.0, abs=1e-3)


class GeneratedSeconds(Metric):
    """A metric that tells what similarity hears."""

    name, label, better = "generated", "generated", "higher"

    def measure(self, item):
        value = len(item.generated) / item.sample_rate
        return Measurement(value, numbers={"value": value})


def test_the_prompt_that_hypotheses_begin_with_is_not_in_what_similarity_hears(tmp_path, two_systems, monkeypatch,
                                                                                caplog):
    monkeypatch.setitem(registry._METRICS, "generated", GeneratedSeconds())
    told = {"setting": "continuation", "metrics": ("generated", "wer")}
    score(tmp_path, two_systems[0], **told)
    seconds = [row["systems"]["right"]["metrics"]["generated"]["value"] for row in read(tmp_path)[1].values()]
    assert "give --with-prompt when the files" in caplog.text
    caplog.clear()
    score(tmp_path, two_systems[0], with_prompt=True, **told)
    assert "--with-prompt" not in caplog.text
    scores, rows = read(tmp_path)
    entries = [row["systems"]["right"] for row in rows.values()]
    assert [entry["metrics"]["generated"]["value"] for entry in entries] == [each - 3.0 for each in seconds]
    assert {entry["prompt_seconds"] for entry in entries} == {3.0} and scores["setting_in_words"].endswith("not hear")
    make_hypotheses(Path(two_systems[0]), {"u0": (0, 2.0)})
    score(tmp_path, two_systems[0], with_prompt=True, **told)
    assert "not longer than the prompt of 3 s" in read(tmp_path)[1]["u0"]["systems"]["right"]["reason"]
    with pytest.raises(ValueError, match="for --hypotheses in the setting `continuation`"):
        settings(tmp_path, hypotheses=two_systems, with_prompt=True)
