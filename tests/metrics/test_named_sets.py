"""Test sets by name: what ships is what it says, and what is built is the same everywhere or refused."""

import hashlib
import json
import runpy
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.artifacts.manifest import read_manifest
from stages.artifacts.storage import read_json, read_jsonl, verify_checksums
from stages.errors import UsageError
from stages.metrics import librispeech, named_sets
from stages.metrics.librispeech import SAMPLE_RATE, Known, find_corpus, read_table, text_hash
from stages.metrics.named_sets import NAMED_SETS, SETS, as_sentence, resolve
from stages.metrics.test_set import find_test_set, read_test_set

ROOT = Path(named_sets.__file__).parents[2]
LISTS = {"libri-long-90s": (60, 90), "libri-long-180s": (120, 180)}
SPEAKER = "61"  # the least speech of those with chapters for all that is tested here
LOWEST = np.iinfo(np.int16).min


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(librispeech, "_hub_cache", lambda: None)


def sound_of(utterance: str, samples: int) -> np.ndarray:
    """Return samples that are another's nowhere, quick to make and to compress."""
    waveform = np.full(samples, int(utterance[-4:]), np.int16)
    waveform[0], waveform[-1] = LOWEST, len(utterance)
    return waveform


@pytest.fixture
def table(monkeypatch) -> dict[str, Known]:
    """The real ids and numbers of samples of one speaker; the texts are ours."""
    known = {utterance: replace(facts, text_hash=text_hash(f"TEXT OF {utterance}"))
             for utterance, facts in read_table().items() if utterance.startswith(f"{SPEAKER}-")}
    monkeypatch.setattr(named_sets, "read_table", lambda: known)
    return known


@pytest.fixture
def lists(table, tmp_path, monkeypatch) -> dict[str, list[dict]]:
    """The rows of the shipped lists that the speaker has."""
    mine = {name: [row for row in read_jsonl(SETS / f"{name}.jsonl") if row["id"].startswith(f"{SPEAKER}-")]
            for name in LISTS}
    for name, rows in mine.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(named_sets, "SETS", tmp_path)
    return mine


def write_tree(root: Path, table: dict[str, Known]) -> Path:
    """Write a tree such as LibriSpeech's, with the ids and numbers of samples of the table."""
    for utterance, facts in table.items():
        speaker, chapter, _ = utterance.split("-")
        folder = root / "LibriSpeech" / "test-clean" / speaker / chapter
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{utterance}.flac", sound_of(utterance, facts.samples), SAMPLE_RATE)
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
            file.write(f"{utterance} TEXT OF {utterance}\n")
    return root


# ---- what ships


def test_the_table_is_test_clean_as_it_is_known():
    table = read_table()
    chapters = Counter(utterance.rsplit("-", 1)[0] for utterance in table)
    assert (len(table), len(chapters), len({chapter.split("-")[0] for chapter in chapters})) == (2620, 87, 40)
    assert all(f"{chapter}-{number:04d}" in table for chapter, count in chapters.items() for number in range(count))
    assert sum(facts.samples for facts in table.values()) / SAMPLE_RATE / 3600 == pytest.approx(5.4, abs=0.01)
    assert table["1089-134686-0001"] == Known(52400, text_hash("STUFF IT INTO YOU HIS BELLY COUNSELLED HIM"))


def test_the_archives_hash_is_the_one_that_torchaudio_checks():
    from torchaudio.datasets import librispeech as theirs

    assert librispeech.SHA256 in theirs._CHECKSUMS.values()


@pytest.mark.parametrize("name", LISTS)
def test_a_shipped_list_follows_from_the_table(name):
    script = runpy.run_path(str(SETS / "make_libri_long.py"))
    assert read_jsonl(SETS / f"{name}.jsonl") == script["make_list"](name)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_joins_neighbours_of_a_chapter_to_the_promised_length_and_prompts_with_the_rest(name):
    table, rows = read_table(), read_jsonl(SETS / f"{name}.jsonl")
    least, most = LISTS[name]
    order = list(table)
    used = [utterance for row in rows for utterance in row["utterances"]]
    assert len(set(used)) == len(used)
    for row in rows:
        first = order.index(row["utterances"][0])
        assert order[first : first + len(row["utterances"])] == row["utterances"]
        assert len({utterance.rsplit("-", 1)[0] for utterance in row["utterances"]}) == 1
        assert sum(table[utterance].samples for utterance in row["utterances"]) == row["samples"]
        assert least * SAMPLE_RATE <= row["samples"] <= most * SAMPLE_RATE
        assert row["prompt"] not in row["utterances"] and row["prompt"].split("-")[0] == row["id"].split("-")[0]
        assert 4 * SAMPLE_RATE <= table[row["prompt"]].samples <= 10 * SAMPLE_RATE
        chapter = row["utterances"][0].rsplit("-", 1)[0]
        others = {one.rsplit("-", 1)[0] for one in order if one.split("-")[0] == chapter.split("-")[0]} - {chapter}
        assert not others or row["prompt"].rsplit("-", 1)[0] in others
    assert len({row["id"].split("-")[0] for row in rows}) == 40
    assert f"{len(rows)} recordings" in NAMED_SETS[name].what


def test_the_demo_ships_eight_readings_with_prompts_in_little_room(tmp_path):
    folder = find_test_set("demo-90s", str(tmp_path))
    chosen = read_test_set(folder)
    assert folder.is_relative_to(ROOT / "stages") and chosen.split == "test"
    seconds = [case.recording.duration for case in chosen.cases]
    assert len(seconds) == 8 and all(10 <= length <= 90 for length in seconds)
    assert sum(length >= 60 for length in seconds) >= 4
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 3_000_000
    for case in chosen.cases:
        assert case.prompt.speaker == case.speaker and 3 <= case.prompt.duration <= 10
    for case in chosen.everyone:
        info = soundfile.info(case.recording.audio)
        assert info.duration == pytest.approx(case.recording.duration, abs=0.01) and info.samplerate == 16_000
        assert case.extra["license"] == "CC0-1.0"


def test_the_demo_says_nothing_that_the_demo_is_trained_on():
    trained = (ROOT / "examples" / "speech" / "sentences.txt").read_text(encoding="utf-8")
    texts = [case.text for case in read_test_set(SETS / "demo-90s").everyone]
    sentences = [sentence for text in texts for sentence in text.split(". ") if len(sentence.split()) > 4]
    assert len(sentences) > 50 and not [sentence for sentence in sentences if sentence in trained]


def test_the_package_ships_every_file_of_the_sets():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["stages"]
    shipped = {file for pattern in patterns for file in (ROOT / "stages").glob(pattern)}
    assert shipped >= {file for file in SETS.rglob("*") if file.is_file()}
    assert SETS / "demo-90s" / "audio" / "rms-prompt.ogg" in shipped


# ---- what is built


def test_a_long_set_is_joined_sample_by_sample_and_prompted_as_listed(table, lists, tmp_path):
    root = write_tree(tmp_path / "data", table)
    chosen = read_test_set(find_test_set("libri-long-90s", str(root)))
    assert [case.id for case in chosen.cases] == [row["id"] for row in lists["libri-long-90s"]]
    for case, row in zip(chosen.cases, lists["libri-long-90s"], strict=True):
        samples, sample_rate = soundfile.read(case.recording.audio, dtype="int16")
        expected = np.concatenate([sound_of(one, table[one].samples) for one in row["utterances"]])
        assert sample_rate == SAMPLE_RATE and np.array_equal(samples, expected)
        assert case.recording.duration == len(expected) / SAMPLE_RATE
        assert case.text == " ".join(f"Text of {one}." for one in row["utterances"])
        assert case.extra["audio_sha256"] == hashlib.sha256(case.recording.audio.read_bytes()).hexdigest()
        prompt, _ = soundfile.read(case.prompt.audio, dtype="int16")
        assert case.prompt.id == row["prompt"]
        assert np.array_equal(prompt, sound_of(row["prompt"], table[row["prompt"]].samples))


def test_the_same_tree_gives_the_same_bytes_wherever_it_lies(table, lists, tmp_path):
    built = [resolve("libri-long-180s", write_tree(tmp_path / place, table)) for place in ("here", "there")]
    assert (built[0] / "checksums.json").read_bytes() == (built[1] / "checksums.json").read_bytes()
    for folder in built:
        verify_checksums(folder)
    assert len(read_json(built[0] / "checksums.json")["files"]) > len(lists["libri-long-180s"]) > 0


def test_a_built_set_is_found_again_without_its_ingredients(table, lists, tmp_path):
    root = write_tree(tmp_path / "data", table)
    folder = find_test_set("libri-long-180s", str(root))
    (root / "LibriSpeech").rename(root / "elsewhere")
    assert find_test_set("libri-long-180s", str(root)) == folder == root / "libri-long-180s"


def test_librispeech_clean_takes_4_to_35_seconds_of_the_corpus_own_files(table, tmp_path):
    root = write_tree(tmp_path / "data", table)
    (root / "LibriSpeech" / "test-clean").rename(root / "test-clean")
    rows = read_manifest(find_test_set("librispeech-clean", str(root))).utterances
    expected = [one for one, facts in table.items() if 64_000 <= facts.samples <= 560_000]
    assert [row.id for row in rows] == expected and 0 < len(rows) < len(table)
    for row in rows:
        speaker, chapter, _ = row.id.split("-")
        assert row.audio.read_bytes() == (root / "test-clean" / speaker / chapter / f"{row.id}.flac").read_bytes()
        assert (row.speaker, row.split) == (SPEAKER, "test")


def test_the_paper_lengths_leave_1850_utterances_of_test_clean():
    assert len(list(named_sets.recordings_of("librispeech-clean", read_table()))) == 1850
    assert "1850 utterances" in NAMED_SETS["librispeech-clean"].what


def test_a_dataset_on_disk_gives_what_the_tree_gives(table, lists, tmp_path):
    import datasets

    tree = write_tree(tmp_path / "tree", table)
    corpus = find_corpus(tree)
    columns = {"id": list(corpus.texts), "text": list(corpus.texts.values()),
               "audio": [{"bytes": corpus.load(one), "path": f"{one}.flac"} for one in corpus.texts]}
    dataset = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(SAMPLE_RATE))
    for place in ("clean/test", "other/test"):  # the second would be other utterances
        folder = tmp_path / "parquet" / "librispeech_asr" / place
        folder.mkdir(parents=True)
        (dataset if place == "clean/test" else dataset.rename_column("text", "other")).to_parquet(folder / "0.parquet")
    saved = datasets.DatasetDict({"test": dataset, "test.other": dataset.rename_column("text", "other")})
    saved.save_to_disk(tmp_path / "saved" / "librispeech_asr")
    built = [resolve("libri-long-180s", tmp_path / place) / "checksums.json" for place in ("tree", "parquet", "saved")]
    assert built[0].read_bytes() == built[1].read_bytes() == built[2].read_bytes()


def test_an_interrupted_build_leaves_no_set_and_the_next_one_completes_it(table, lists, tmp_path, monkeypatch):
    root = write_tree(tmp_path / "data", table)
    written = []

    def interrupted(*arguments):
        written.append(arguments)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write_recording(*arguments)

    write_recording = named_sets._write_recording
    monkeypatch.setattr(named_sets, "_write_recording", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve("libri-long-180s", root)
    assert [path.name for path in root.iterdir()] == ["LibriSpeech"]
    verify_checksums(resolve("libri-long-180s", root))


def replace_sound(folder: Path, utterance: str, samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    soundfile.write(folder / f"{utterance}.flac", samples, sample_rate)


def damage_samples(folder: Path, utterance: str) -> None:
    """Leave the file's own MD5 as it was and put other samples behind it."""
    file = folder / f"{utterance}.flac"
    md5 = file.read_bytes()[26:42]
    samples, _ = soundfile.read(file, dtype="int16")
    samples[5] += 1
    replace_sound(folder, utterance, samples)
    data = file.read_bytes()
    file.write_bytes(data[:26] + md5 + data[42:])


def edit_transcript(folder: Path, old: str, new: str) -> None:
    file = next(folder.glob("*.trans.txt"))
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


DIFFERENCES = {
    "a missing file": (lambda folder, one: (folder / f"{one}.flac").unlink(), "cannot be read"),
    "a file that is no audio": (lambda folder, one: (folder / f"{one}.flac").write_bytes(b"no"), "cannot be read"),
    "too few samples": (lambda folder, one: replace_sound(folder, one, np.zeros(5, np.int16)), "samples, got 5"),
    "another rate": (lambda folder, one: replace_sound(folder, one, np.zeros(9, np.int16), 8000), "got 8000 Hz"),
    "damaged samples": (damage_samples, "audio is damaged"),
    "another text": (lambda folder, one: edit_transcript(folder, f"OF {one}", "OF NOBODY"), "begins `TEXT OF NOBODY`"),
    "no transcript": (lambda folder, one: edit_transcript(folder, f"{one} TEXT OF {one}\n", ""), "no transcript"),
    "another utterance": (lambda folder, one: edit_transcript(folder, f"{one} TEXT", f"{one}9 TEXT"), "not part of it"),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_a_tree_that_differs_is_refused_and_the_utterance_named(table, lists, tmp_path, kind):
    root = write_tree(tmp_path / "data", table)
    spoil, reason = DIFFERENCES[kind]
    one = list(table)[3]
    spoil(root / "LibriSpeech" / "test-clean" / SPEAKER / one.split("-")[1], one)
    with pytest.raises(UsageError, match="is not LibriSpeech test-clean as it was published") as caught:
        resolve("libri-long-180s", root)
    assert f"`{one}" in caught.value.message and reason in caught.value.message
    assert librispeech.SHA256 in caught.value.hint
    assert not (root / "libri-long-180s").exists()


def test_many_differences_are_counted(table, lists, tmp_path):
    root = write_tree(tmp_path / "data", table)
    for file in (root / "LibriSpeech").rglob("*.flac"):
        file.unlink()
    with pytest.raises(UsageError, match=f"; and {len(table) - 5} more"):
        resolve("librispeech-clean", root)


# ---- what is missing


@pytest.mark.parametrize("name", ["librispeech-clean", "libri-long-90s", "libri-long-180s"])
def test_a_set_without_librispeech_says_what_to_fetch_and_where_to_put_it(tmp_path, name):
    with pytest.raises(UsageError, match=f"no test set `{name}`") as caught:
        find_test_set(name, str(tmp_path))
    message, hint = caught.value.message, caught.value.hint
    assert "346,663,984 bytes" in message and "CC BY 4.0" in message and NAMED_SETS[name].what in message
    assert str(tmp_path / "LibriSpeech" / "test-clean") in message and str(tmp_path / "librispeech_asr") in message
    assert "curl -L https://www.openslr.org/resources/12/test-clean.tar.gz" in hint and f"-C {tmp_path}" in hint


@pytest.mark.parametrize("name", ["test-90s", "test-180s"])
def test_a_set_that_was_announced_says_so_and_where_it_would_go(tmp_path, name):
    with pytest.raises(UsageError, match="announced by the authors of HALL-E at https://github") as caught:
        find_test_set(name, str(tmp_path))
    assert "MinutesSpeech" in caught.value.message and "Creative Commons" in caught.value.message
    assert f"halle curate RECORDINGS --out {tmp_path / name}" in caught.value.hint


def test_an_unknown_name_is_told_the_named_sets(tmp_path):
    assert resolve("demo", tmp_path) is None
    with pytest.raises(UsageError, match="the named sets are demo-90s, librispeech-clean, libri-long-90s"):
        find_test_set("demo", str(tmp_path))


def test_a_transcript_in_capitals_becomes_a_sentence():
    assert as_sentence("THE DEGREE OF PH D") == "The degree of ph d."
