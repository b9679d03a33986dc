"""The listening page: blind, complete, equally loud, and what a browser exports from it can be read."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.audio.io import write_audio
from stages.audio.loudness import loudness
from stages.config.stage_configs import EvalConfig
from stages.errors import UsageError
from stages.metrics.listening_answers import read_answers, read_key, score_listening
from stages.reports import listening_test
from stages.reports.listening_test import draw, write_listening_test

RATE = 16_000
SYSTEMS = ("recordings", "our-system", "their-system")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
# At the end of the page: a listener who gives every recording 4 and every voice 2, in no time
LISTENER = """<script>
find("listener").value = "ann"; find("consent").checked = true;
find("begin").requestSubmit();
while (state.position < order.length) {
  find("sound").dispatchEvent(new Event("ended"));
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "4"}));
  if (questions().length > 1) document.dispatchEvent(new KeyboardEvent("keydown", {key: "2"}));
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
}
const kept = recall();
document.body.replaceChildren(Object.assign(document.createElement("pre"), {id: "exported", textContent: JSON.stringify(
  {answers: JSON.parse(answers()), kept, again: orderFor("ann"), order, other: orderFor("bob")})}));
</script></body>"""


def put(out, path, level, seconds=1.0, pitch=200):
    """Write a sound of this level and return what a row of items.jsonl says of it."""
    time = np.arange(round(seconds * RATE)) / RATE
    write_audio(out / path, (level * np.sin(2 * np.pi * pitch * time)).astype(np.float32), RATE)
    digest = hashlib.sha256((out / path).read_bytes()).hexdigest()
    return {"audio": path, "audio_sha256": digest, "prompt_seconds": 0.0, "seconds": seconds}


def make_rows(out, count=3, prompts=True):
    rows = []
    for index in range(count):
        systems = {system: put(out, f"{system}/u{index}.wav", level, 1.0 + index / 10, pitch=200 + 50 * index)
                   for system, level in zip(SYSTEMS, (0.5, 0.05, 0.2), strict=True)}
        prompt = put(out, f"prompts/u{index}.wav", 0.1)["audio"] if prompts else None
        rows.append({"id": f"u{index}", "take": 1, "refused": "", "speaker": "ann", "text": f"words of {index}",
                     "prompt": prompt and f"p{index}", "prompt_audio": prompt,
                     "reference_seconds": 4.0, "systems": systems})  # fmt: skip
    return rows


@pytest.fixture
def rows(tmp_path):
    return make_rows(tmp_path)


def written(out, rows, **settings):
    """Return the key and the page: its data, and its sounds by their ids, encoded."""
    write_listening_test(out, rows, EvalConfig(listening=settings))
    html = (out / listening_test.PAGE).read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="test">(.*?)</script>', html).group(1))
    sounds = dict(re.findall(r'<script type="text/plain" id="(\w+)">([\w+/=]+)</script>', html))
    return read_key(out), data, {code: base64.b64decode(sound) for code, sound in sounds.items()}, html


def test_every_sound_of_every_system_is_there_under_its_code_with_the_voice_to_compare_with(tmp_path, rows):
    key, data, sounds, _ = written(tmp_path, rows)
    assert {(each["id"], each["system"]) for each in key["sounds"].values()} == {
        (f"u{index}", system) for index in range(3) for system in SYSTEMS}
    assert [each["code"] for each in data["sounds"]] == sorted(key["sounds"])
    assert {each["code"] for each in data["sounds"]} | {each["voice"] for each in data["sounds"]} == set(sounds)
    for code, known in key["sounds"].items():
        waveform, rate = soundfile.read(io.BytesIO(sounds[code]))
        index = int(known["id"][1:])
        heard = np.argmax(np.abs(np.fft.rfft(waveform))) * rate / len(waveform)
        assert rate == 24_000 and heard == pytest.approx(200 + 50 * index, abs=2)
        assert known["seconds"] == pytest.approx(1.0 + index / 10)
        assert known["questions"] == ["naturalness", "similarity"]


def test_the_page_tells_nothing_by_which_a_system_could_be_known(tmp_path, rows):
    key, data, _, html = written(tmp_path, rows, checks=1)
    told = re.sub(r'<script type="text/plain".*?</script>', "", html)
    names = [*SYSTEMS[1:], *(row["id"] for row in rows), *(row["text"] for row in rows), tmp_path.name, "halle-",
             "prompts/", ".wav", "reference", "ground truth", key["key"],
             *(entry["audio_sha256"] for row in rows for entry in row["systems"].values())]  # fmt: skip
    assert [name for name in names if name in told] == []
    assert re.findall(r"\brecordings/|u\d\b", told) == []
    assert all(set(each) == {"code", "voice"} for each in data["sounds"])
    # no hash without the key is any of the codes
    guesses = [f"{row['id']}{mark}{system}" for row in rows for system in SYSTEMS for mark in ("", "/", "\x1f", "\0")]
    hashes = {hash_(guess.encode()).hexdigest()[:16] for guess in guesses
              for hash_ in (hashlib.sha256, hashlib.md5, hashlib.sha1)}
    assert hashes.isdisjoint(key["sounds"])


def test_another_folder_gives_the_same_sounds_other_codes_in_another_order(tmp_path):
    orders = []
    for name in ("one", "two"):
        key, data, _, _ = written(tmp_path / name, make_rows(tmp_path / name))
        orders.append([(key["sounds"][each["code"]]["id"], key["sounds"][each["code"]]["system"])
                       for each in data["sounds"]])
        shutil.copy(tmp_path / name / "listening-key.json", tmp_path / f"{name}.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert one["sounds"].keys().isdisjoint(two["sounds"]) and one["test"] != two["test"]


def test_all_sounds_are_equally_loud_and_the_page_says_how_loud(tmp_path, rows):
    _, data, sounds, _ = written(tmp_path, rows, loudness=-26.0)
    levels = [loudness(*soundfile.read(io.BytesIO(sound))) for sound in sounds.values()]
    assert data["loudness"] == "-26 LUFS" and levels == pytest.approx([-26.0] * len(levels), abs=0.5)


def test_the_page_stays_within_its_bounds(tmp_path, rows, caplog):
    key, data, _, _ = written(tmp_path / "all", make_rows(tmp_path / "all"), utterances=2, per_listener=4)
    assert key["utterances"] == 2 and len(data["sounds"]) == 6 and data["rated"] == 4
    key, _, _, html = written(tmp_path, rows, megabytes=0.06)
    assert 1 <= key["utterances"] < 3 and len(html) < 0.09e6
    assert "fit into 0.06 MB" in caplog.text
    with pytest.raises(UsageError, match=r"fits into 0\.001 MB"):
        written(tmp_path / "small", make_rows(tmp_path / "small"), megabytes=0.001)


def test_a_system_without_audio_of_an_utterance_is_counted_and_refused_utterances_and_other_takes_are_not_drawn(
        tmp_path, rows):
    rows[0]["systems"]["our-system"]["audio"] = None
    rows[1]["refused"] = "the recording is damaged"
    again = {**rows[2], "take": 2}
    key, *_ = written(tmp_path, [*rows, again])
    assert key["without_sound"] == {"recordings": 0, "our-system": 1, "their-system": 0}
    assert sorted(each["id"] for each in key["sounds"].values()) == ["u0"] * 2 + ["u2"] * 3


def test_what_continues_a_recording_is_heard_without_it_and_compared_with_it(tmp_path):
    rows = make_rows(tmp_path, count=1, prompts=False)
    systems = rows[0]["systems"]
    systems["our-system"] |= {"prompt_seconds": 0.25}
    key, data, sounds, _ = written(tmp_path, rows)
    seconds = {each["system"]: each["seconds"] for each in key["sounds"].values()}
    assert seconds == {"recordings": 0.75, "our-system": 0.75, "their-system": 1.0}
    assert {each["voice"] for each in key["sounds"].values()} == {"recordings/u0.wav"}
    voice = soundfile.read(io.BytesIO(sounds[data["sounds"][0]["voice"]]))[0]
    assert len(voice) / 24_000 < 0.25 + 0.15  # MP3 pads


def test_without_a_prompt_another_recording_of_the_speaker_is_compared_with_and_of_nobody_known_none(tmp_path):
    rows = make_rows(tmp_path, prompts=False)
    key, *_ = written(tmp_path, rows)
    assert all(each["voice"].startswith("recordings/") and each["id"] not in each["voice"]
               for each in key["sounds"].values())
    for row in rows:
        row["speaker"] = "unknown"
    strangers = tmp_path / "strangers"
    shutil.copytree(tmp_path, strangers, ignore=shutil.ignore_patterns("strangers", "listening*"))
    key, data, *_ = written(strangers, rows)
    assert {each["voice"] for each in data["sounds"]} == {None}
    assert all(each["questions"] == ["naturalness"] for each in key["sounds"].values())


def test_a_recording_that_is_also_a_voice_is_drawn_last_and_has_other_bytes(tmp_path):
    rows = make_rows(tmp_path, count=4)
    for row in rows[1:]:  # u0 is everybody's prompt
        row["prompt"], row["prompt_audio"] = "u0", "recordings/u0.wav"
    assert {tuple(sorted(row["id"] for row in draw(rows, EvalConfig(seed=seed))[:3])) for seed in range(8)} >= {
        ("u1", "u2", "u3")}
    for seed in range(8):
        first = draw(rows, EvalConfig(seed=seed))[0]["id"]
        assert (draw(rows, EvalConfig(seed=seed))[-1]["id"] == "u0") == (first != "u0")
    _, _, sounds, _ = written(tmp_path, rows)
    assert len(set(sounds.values())) == len(sounds)


def test_attention_checks_are_recordings_played_backwards(tmp_path):
    rows = make_rows(tmp_path)
    ramp = np.linspace(0, 0.5, RATE, dtype=np.float32) * np.sin(np.arange(RATE) / 8).astype(np.float32)
    for row in rows:
        write_audio(tmp_path / row["systems"]["recordings"]["audio"], ramp, RATE)
    key, _, sounds, _ = written(tmp_path, rows, checks=2)
    checks = [code for code, each in key["sounds"].items() if each["check"]]
    assert len(checks) == 2 and len(key["sounds"]) == 3 * 3 + 2
    for code in checks:
        waveform = soundfile.read(io.BytesIO(sounds[code]))[0]
        assert np.abs(waveform[: len(waveform) // 4]).mean() > 3 * np.abs(waveform[-len(waveform) // 4 :]).mean()


def test_a_test_is_written_again_as_it_is_and_never_replaced_by_another(tmp_path, rows):
    key, _, _, html = written(tmp_path, rows)
    assert written(tmp_path, rows)[0] == key and written(tmp_path, rows)[3] == html
    with pytest.raises(UsageError, match="other sounds or settings") as raised:
        written(tmp_path, rows[:2])
    assert "listening-key.json" in raised.value.hint and read_key(tmp_path) == key


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_what_a_browser_exports_can_be_read_and_scored(tmp_path, rows):
    key, *_, html = written(tmp_path, rows, checks=1)
    assert html.count("</body>") == 1
    driven = tmp_path / "driven.html"
    driven.write_text(html.replace("</body>", LISTENER), encoding="utf-8")
    dumped = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/me",
                             "--dump-dom", driven.as_uri()], capture_output=True, encoding="utf-8", timeout=120,
                            check=False).stdout  # fmt: skip
    found = json.loads(re.search(r'<pre id="exported">(.*?)</pre>', dumped).group(1))
    assert sorted(found["order"]) == sorted(key["sounds"])
    assert found["again"] == found["order"] != found["other"] and sorted(found["other"]) == sorted(key["sounds"])
    assert found["kept"]["ratings"].keys() == key["sounds"].keys()
    voices = {code: each["voice"] for code, each in key["sounds"].items()}
    assert sum(voices[a] == voices[b] for a, b in zip(found["order"], found["order"][1:], strict=False)) <= 2
    file = tmp_path / "ann.json"
    file.write_text(json.dumps(found["answers"]), encoding="utf-8")
    assert read_answers(file, key).listener == "ann"
    told = score_listening(tmp_path, [str(file)], lambda total: 0)
    # she called speech played backwards natural
    assert told["excluded"][0]["reason"].startswith("failed 1 of 1 attention checks")
    answers = found["answers"]
    answers["ratings"] = [each | ({"naturalness": 1} if key["sounds"][each["code"]]["check"] else {})
                          for each in answers["ratings"]]
    file.write_text(json.dumps(answers), encoding="utf-8")
    told = score_listening(tmp_path, [str(file)], lambda total: 0)
    assert (told["listeners"], told["ratings"], told["unfinished"]) == (1, 9, [])
    assert {name: (score["qmos"]["value"], score["smos"]["value"]) for name, score in told["systems"].items()} == {
        system: (4.0, 2.0) for system in SYSTEMS}


def test_the_page_is_in_the_package():
    root = Path(__file__).parents[2]
    patterns = re.search(r"^stages = \[(.*)\]$", (root / "pyproject.toml").read_text(encoding="utf-8"), re.M).group(1)
    assert '"reports/*.html"' in patterns and listening_test._TEMPLATE.parent == root / "stages" / "reports"
