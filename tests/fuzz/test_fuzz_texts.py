"""Any text: it is normalised, tokenised and divided, and nothing is lost on the way, or a `HalleError` says why not."""

import json
import tempfile
import unicodedata
from pathlib import Path

from fuzzing import damaged, fuzz, hard_json, json_values, only_halle_errors, words
from hypothesis import example, given
from hypothesis import strategies as st

from stages.config.resolve import resolve
from stages.synthesis.batch import read_items
from stages.synthesis.explain import explain_text
from stages.synthesis.long_script import paragraphs_of, sentences_of
from stages.text.normalizer import drop_control_characters, normalize, normalize_with_changes
from stages.text.sentences import split_sentences
from stages.text.tokenizer import UNK, TextTokenizer

TRAINED = TextTokenizer.train(["the quick brown fox", "jumps over the lazy dog, isn't it?"], vocab_size=60)
pieces = st.sampled_from(
    [
        "Dr. ",
        "$1,234.56",
        "1/2",
        "3:45",
        "12.12.2012",
        "e.g. ",
        "...",
        "\n\n",
        "1e400",
        "9" * 400,
        "-",
        "’",
        "\u200d",
        "🙂",
        "東京",
        "\u202e",
        "\x00",
        "ﬁ",
        "Ⅷ",
        "½",
        "٣",
        "0x1F",
        "€5m",
        "v1.2.3",
        "№",
        "...?!",
        " ",
    ]
)
texts = st.one_of(
    st.text(max_size=80), st.lists(pieces, max_size=8).map("".join), st.text(alphabet=st.characters(), max_size=30)
)


@fuzz
@given(texts)
@example("\ud800")
def test_any_text_is_normalised_and_normal_text_stays(text):
    with only_halle_errors():
        normal = normalize(text)
        assert normalize(normal) == normal
        assert normalize_with_changes(text).text == normal


@fuzz
@given(texts)
def test_sentences_and_paragraphs_hold_all_words(text):
    with only_halle_errors():
        text = drop_control_characters(text)
        assert _solid("".join(split_sentences(text))) == _solid(text)
        spoken = [sentence for _, paragraph in paragraphs_of(text) for sentence in sentences_of(paragraph)]
        assert _words("".join(spoken)) == _words(text)  # a paragraph without words is left out


def _solid(text: str) -> str:
    return "".join(text.split())


def _words(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@fuzz
@given(texts)
def test_any_normal_text_is_tokens_and_back(text):
    with only_halle_errors():
        normal = normalize(text)
        ids = TRAINED.encode(normal)
        assert all(0 <= index < TRAINED.vocab_size and index != UNK for index in ids)
        unknown = TRAINED.unknown_characters(normal)
        kept = "".join(c for c in normal.lower() if c not in unknown)
        assert _bare(TRAINED.decode(ids)).split() == _bare(kept).split()


def _bare(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


@fuzz
@given(st.lists(texts, min_size=1, max_size=4), st.integers(8, 80))
def test_a_tokenizer_of_any_texts_round_trips(found, size):
    with only_halle_errors():
        normal = [normalize(text) for text in found]
        tokenizer = TextTokenizer.train(normal, vocab_size=size)
        again = TextTokenizer.from_json(tokenizer.to_json())
        assert again == tokenizer and again.vocab_size == size
        assert [again.encode(text) for text in normal] == [tokenizer.encode(text) for text in normal]


@fuzz
@given(
    st.one_of(
        st.binary(max_size=60),
        hard_json,
        damaged(TRAINED.to_json().encode()),
        st.dictionaries(
            st.sampled_from(
                ["kind", "entries", "merges", "lowercase", "normalizer", "format_version", "vocab_size", "specials"]
            ),
            json_values,
        ).map(lambda changes: json.dumps(json.loads(TRAINED.to_json()) | changes).encode()),
    )
)
def test_any_bytes_as_a_tokenizer(content):
    with tempfile.TemporaryDirectory() as name, only_halle_errors():
        file = Path(name) / "text_tokenizer.json"
        file.write_bytes(content)
        loaded = TextTokenizer.load(file)
        assert all(0 <= index < loaded.vocab_size for index in loaded.encode("the quick fox"))
        assert TextTokenizer.from_json(loaded.to_json()) == loaded


@fuzz
@given(
    st.one_of(
        st.binary(max_size=60),
        hard_json,
        st.lists(
            st.fixed_dictionaries(
                {"id": words, "text": st.one_of(texts, json_values)},
                optional={"prompt": words, "prompt_text": json_values},
            ),
            max_size=4,
        ).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    )
)
def test_any_bytes_as_a_list_of_texts_to_speak(content):
    with tempfile.TemporaryDirectory() as name, only_halle_errors():
        file = Path(name) / "texts.jsonl"
        file.write_bytes(content)
        items = read_items(resolve("synth", "smoke", options={"text": str(file), "prompt": str(file)}))
        assert len({item.id.lower() for item in items}) == len(items)
        assert all(item.inputs for item in items)


@fuzz
@given(texts)
def test_any_text_is_explained(text):
    with only_halle_errors():
        assert explain_text(text, resolve("synth", "smoke", options={"say": "x"}))
