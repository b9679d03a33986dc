from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import StorageError, UsageError
from stages.text.normalizer import normalize
from stages.text.tokenizer import EOT, PAD, UNK, TextTokenizer

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
SENTENCES = [normalize(line) for line in (SPEECH / "sentences.txt").read_text(encoding="utf-8").splitlines()]
TOKENIZER = TextTokenizer.train(SENTENCES)
KNOWN_TEXT = st.text(alphabet=[*sorted(TOKENIZER.alphabet), " "], max_size=60)


def test_the_vocabulary_has_258_entries_with_the_specials_first() -> None:
    assert TOKENIZER.vocab_size == len(set(TOKENIZER.entries)) == 258
    assert TOKENIZER.entries[:3] == ("<pad>", "<unk>", "<eot>") and (PAD, UNK, EOT) == (0, 1, 2)
    assert len(TOKENIZER.merges) > 200


@given(KNOWN_TEXT)
@settings(max_examples=200, deadline=None)
def test_text_survives_a_round_trip(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == " ".join(text.split())
    assert ids[-1] == EOT and ids.count(EOT) == 1 and all(EOT < index < 258 for index in ids[:-1])


def test_the_shipped_sentences_survive_a_round_trip_in_lower_case() -> None:
    assert [TOKENIZER.decode(TOKENIZER.encode(text)) for text in SENTENCES] == [text.lower() for text in SENTENCES]


@given(KNOWN_TEXT, KNOWN_TEXT)
@settings(max_examples=100, deadline=None)
def test_a_pair_reads_like_one_text(prompt: str, text: str) -> None:
    assert TOKENIZER.encode_pair(prompt, text) == TOKENIZER.encode(f"{prompt} {text}")


def test_merges_never_cross_words() -> None:
    words = SENTENCES[0].split()
    one_by_one = [index for word in words for index in TOKENIZER.encode(word)[:-1]]
    assert TOKENIZER.encode(SENTENCES[0])[:-1] == one_by_one


def test_unseen_english_takes_two_to_three_and_a_half_tokens_a_word() -> None:
    tokenizer = TextTokenizer.train(SENTENCES[::2])
    unseen = SENTENCES[1::2]
    num_tokens = sum(len(tokenizer.encode(text)) - 1 for text in unseen)
    assert 2.0 < num_tokens / sum(len(text.split()) for text in unseen) < 3.5


def test_training_is_deterministic_and_depends_on_the_texts() -> None:
    assert TextTokenizer.train(SENTENCES).fingerprint == TOKENIZER.fingerprint
    assert TextTokenizer.train(list(reversed(SENTENCES))).fingerprint == TOKENIZER.fingerprint
    assert TextTokenizer.train(SENTENCES[:-1]).fingerprint != TOKENIZER.fingerprint


def test_a_small_corpus_still_has_258_entries_and_uses_fewer() -> None:
    tokenizer = TextTokenizer.train(["abc abd"])
    assert tokenizer.vocab_size == 258 and tokenizer.entries[-1].startswith("<unused-")
    assert max(tokenizer.encode("abc abd dcba")) < 20
    assert tokenizer.decode(tokenizer.encode("abc dcba")) == "abc dcba"


def test_more_characters_than_entries_keep_the_most_frequent() -> None:
    frequent, rare = "etaoin", "".join(chr(0x4E00 + index) for index in range(50))
    tokenizer = TextTokenizer.train([frequent * 3, rare], vocab_size=16)
    assert tokenizer.vocab_size == 16 and len(tokenizer.alphabet) == 12
    assert set(frequent) < tokenizer.alphabet and "\u4e00" in tokenizer.alphabet


def test_case_is_kept_when_asked() -> None:
    tokenizer = TextTokenizer.train(SENTENCES, lowercase=False)
    assert tokenizer.decode(tokenizer.encode(SENTENCES[0])) == SENTENCES[0] != SENTENCES[0].lower()
    assert tokenizer.fingerprint != TOKENIZER.fingerprint


def test_characters_outside_the_alphabet_are_counted_and_dropped_or_refused() -> None:
    text = "na¿ve ▁ 東東 cat"
    assert TOKENIZER.unknown_characters(text) == {"¿": 1, "▁": 1, "東": 2}
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == "nave cat"
    with pytest.raises(UsageError, match=r"`¿` \(U\+00BF\) 1 time, .* `東` \(U\+6771\) 2 times"):
        TOKENIZER.encode(text, unknown_characters="fail")


def test_letters_with_accents_that_are_not_in_the_alphabet_are_read_without_them() -> None:
    assert TOKENIZER.unknown_characters("Naïve, a ﬁne tête") == {}
    assert TOKENIZER.decode(TOKENIZER.encode("naïve tête", unknown_characters="fail")) == "naive tete"
    french = TextTokenizer.train(["tête à tête, tete"])
    assert french.decode(french.encode("tête")) == "tête"


def test_a_text_that_names_a_special_id_does_not_become_one() -> None:
    tokenizer = TextTokenizer.train([*SENTENCES, "<eot> <pad> <unk>"])
    ids = tokenizer.encode("cats <eot> <pad> dogs")
    assert ids.count(EOT) == 1 and PAD not in ids and UNK not in ids
    assert tokenizer.decode(ids) == "cats <eot> <pad> dogs"


def test_no_text_to_learn_from_is_an_error() -> None:
    with pytest.raises(UsageError, match="no text"):
        TextTokenizer.train(["", "  "])


def test_a_saved_tokenizer_is_the_same_when_loaded(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "text_tokenizer.json")
    for loaded in (TextTokenizer.load(tmp_path / "text_tokenizer.json"), TextTokenizer.load(tmp_path),
                   TextTokenizer.from_json(TOKENIZER.to_json())):
        assert loaded == TOKENIZER and loaded.fingerprint == TOKENIZER.fingerprint
        assert loaded.encode(SENTENCES[3]) == TOKENIZER.encode(SENTENCES[3])
    assert json.loads((tmp_path / "text_tokenizer.json").read_text(encoding="utf-8"))["vocab_size"] == 258


def test_a_damaged_or_wrong_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(TOKENIZER.to_json().replace('"lowercase": true', '"lowercase": false'), encoding="utf-8")
    with pytest.raises(StorageError, match="damaged"):
        TextTokenizer.load(file)
    file.write_text('{"streams": []}', encoding="utf-8")
    with pytest.raises(UsageError, match="expected a text tokenizer, got"):
        TextTokenizer.load(file)
    file.write_text(TOKENIZER.to_json()[:-9], encoding="utf-8")
    with pytest.raises(StorageError, match="not JSON"):
        TextTokenizer.load(file)
    with pytest.raises(UsageError, match="does not exist"):
        TextTokenizer.load(tmp_path / "none.json")


def test_the_demo_texts_have_no_unknown_character() -> None:
    for name in ("script.txt", "prompt.txt"):
        text = normalize((SPEECH / name).read_text(encoding="utf-8"))
        assert TOKENIZER.unknown_characters(text) == {}
