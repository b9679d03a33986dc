"""JSON of anybody: what the standard has is read and written back, the rest refused."""

import pytest

from stages.artifacts.strict_json import parse, to_text


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", '{"a": 1e999}', "[" * 100_000, "9" * 5000, "{", ""])
def test_what_is_no_json_or_no_number_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize("value", [{"a": [1.5, None, True, "é", "𝔞"]}, "\ud800", {"\udfff": 10**400}, 5e-324])
def test_what_is_written_is_read_back_and_can_be_stored(value):
    text = to_text(value)
    text.encode("utf-8")
    assert parse(text) == value
    assert ("é" in text) == ("é" in str(value))
