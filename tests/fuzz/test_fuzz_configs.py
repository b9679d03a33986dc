"""Any settings: a config that says the same when it is read again, or a `HalleError` that says what is wrong."""

import json
import tempfile
from pathlib import Path

import yaml
from fuzzing import damaged, fuzz, hard_json, json_values, numbers, only_halle_errors, words
from hypothesis import given
from hypothesis import strategies as st

from stages.config.presets import PRESETS
from stages.config.resolve import CONFIG_OF_STAGE, flatten, identity_differences, resolve

stages = st.sampled_from(sorted(CONFIG_OF_STAGE))
KEYS = {stage: sorted(flatten(resolve(stage, "smoke"))) for stage in CONFIG_OF_STAGE}
SOUND = yaml.safe_dump({"seed": 3, "training": {"steps": 10, "betas": [0.1, 0.2]}, "out": "x"}).encode()
hard_yaml = st.sampled_from(
    [
        b"&a [*a]",
        b"a: &a {b: *a}",
        b"training: &t {steps: *t}",
        b"2001-99-99",
        b"out: 2001-12-14t21:59:43.10-05:00",
        b"? [1, 2]\n: 3",
        b"1: 2",
        b"null: 1",
        b"true: 1",
        b"seed: !!python/object/apply:os.system [ls]",
        b"seed: 0o99",
        b"seed: 1_000",
        b"seed: .inf",
        b"out: !!binary aGFsbGU=",
        b"out: !!set {a, b}",
        b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]",
        b"training: 3",
        b"train-ar: 3",
        b"train-ar: [1]",
        b"train-ar: {seed: x}",
        b"- 1",
        b"seed: 190:20:30",
        b"\tseed: 1",
        b"a: b: c",
        b'out: "\\ud800"',
        b"[" * 3000,
        b"{a: " * 3000,
        b"seed: " + b"9" * 5000,
    ]
)
files = st.one_of(
    st.binary(max_size=60),
    hard_yaml,
    hard_json,
    damaged(SOUND),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(sorted({key.split(".")[0] for keys in KEYS.values() for key in keys})), json_values, max_size=4
    ).map(lambda value: json.dumps(value).encode()),
)
values = st.one_of(words, json_values.map(json.dumps), hard_yaml.map(lambda data: data.decode("utf-8", "replace")))


def check(config) -> None:
    """A config is what its JSON says, and is no other run than itself."""
    told = json.loads(json.dumps(config.model_dump(mode="json")))
    assert type(config).model_validate(told) == config
    assert identity_differences(flatten(config), config) == {}
    config.bad_allowed(100)


@fuzz
@given(stages, st.sampled_from(sorted(PRESETS)), files)
def test_any_bytes_as_a_config_file(stage, preset, content):
    with tempfile.TemporaryDirectory() as name, only_halle_errors():
        file = Path(name) / "config.yaml"
        file.write_bytes(content)
        check(resolve(stage, preset, str(file)))


@fuzz
@given(st.data(), stages)
def test_any_overrides(data, stage):
    keys = st.one_of(
        st.sampled_from(KEYS[stage]), words, st.sampled_from(["a..b", ".", "training", "training.steps.x"])
    )
    pairs = data.draw(st.lists(st.tuples(keys, values), max_size=3))
    with only_halle_errors():
        check(resolve(stage, "smoke", overrides=tuple(f"{key}={value}" for key, value in pairs)))


@fuzz
@given(st.data(), stages)
def test_any_options(data, stage):
    given_options = data.draw(
        st.dictionaries(st.sampled_from(KEYS[stage]), st.one_of(numbers, json_values), max_size=2)
    )
    with only_halle_errors():
        check(resolve(stage, "smoke", options=given_options))
