import shutil
from dataclasses import asdict
from random import Random

import numpy as np
import pytest
import torch
from tiny_tokens import tiny_codec

from stages.artifacts.storage import write_checksums
from stages.artifacts.token_store import TEXT_TOKENIZER_FILE, StreamInfo, TokenStoreWriter, TokenUtterance
from stages.codec.registry import codec_fingerprint
from stages.config.aligner import AlignerConfig
from stages.data import alignments
from stages.data.alignments import Alignments, load_alignments, make_alignments
from stages.data.tokens import ar_batch, open_tokens
from stages.text.tokenizer import TextTokenizer

LETTERS = "abcdefgh"
SHORT = AlignerConfig(steps=120, batch_frames=2000, spread_share=0.5, longest_prompt_seconds=1)


@pytest.fixture(scope="module")
def spelled(tmp_path_factory):
    """A store of speech that spells its texts, its codec, and the true last frame of every token."""
    folder, random = tmp_path_factory.mktemp("spelled"), np.random.default_rng(0)
    codec, tokenizer = tiny_codec("valle"), TextTokenizer.train([LETTERS], vocab_size=40)
    utterances, ends = [], []
    for index in range(40):
        tokens = np.array([*random.permutation([tokenizer.entries.index(c) for c in LETTERS]), 2])
        holds = random.integers(4, 14, len(tokens))
        frames = int(holds.sum())
        own = np.repeat(tokens, holds) % 16
        codes = np.stack([own, (5 * own + 3) % 16, (3 * own + 1) % 16], axis=1)
        samples = frames * codec.hop_length
        utterances.append(TokenUtterance(f"u{index}", samples / codec.sample_rate, samples, "s", "", "train", tokens,
                                         {"rvq": codes}))  # fmt: skip
        ends.append(np.cumsum(holds))
    writer = TokenStoreWriter(folder, [StreamInfo(**asdict(spec)) for spec in codec.streams])
    writer.write_shard(0, utterances)
    tokenizer.save(folder / TEXT_TOKENIZER_FILE)
    writer.finish(1, {"codec_fingerprint": codec_fingerprint(codec),
                      "text_tokenizer_fingerprint": tokenizer.fingerprint})  # fmt: skip
    return open_tokens(folder, None), codec, ends


@pytest.fixture(scope="module")
def found(spelled, tmp_path_factory):
    data, codec, _ = spelled
    folder = tmp_path_factory.mktemp("aligned") / "alignments"
    make_alignments(folder, data, codec, SHORT, seed=0)
    return folder, load_alignments(folder, SHORT, data.lowest.frame_rate)


def test_the_aligner_finds_out_by_itself_when_each_token_is_said(spelled, found):
    ends = spelled[2]
    wrong = []
    for index, true in enumerate(ends):
        reached = found[1].advances(index).cumsum()
        last = [np.flatnonzero(reached <= token).max() + 1 for token in range(len(true) - 1)]
        wrong += list(np.abs(np.array(last) - true[:-1]))
        assert len(reached) == true[-1] and reached[-1] == len(true) - 1
    assert np.mean(np.array(wrong) <= 3) > 0.95, "tokens last 4 to 13 frames, of which the aligner sees every second"


def test_alignments_are_a_function_of_store_and_seed_and_leave_the_run_s_random_numbers_alone(
        spelled, found, tmp_path, monkeypatch):  # fmt: skip
    data, codec, _ = spelled
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_alignments(tmp_path / "again", data, codec, SHORT, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert (np.load(tmp_path / "again" / "places.npy") == found[1].places).all()
    monkeypatch.setattr(alignments, "train_aligner", lambda *_: pytest.fail("they are there"))
    make_alignments(tmp_path / "again", data, codec, SHORT, seed=0)


def test_a_beginning_read_evenly_ends_where_the_speech_is(found):
    _, aligned = found
    true = aligned.advances(0).cumsum()
    even = [aligned.advances(0, Random(seed)).cumsum() for seed in range(20)]
    changed = [reached for reached in even if not np.array_equal(reached, true)]
    assert 3 < len(changed) < 18
    for reached in changed:
        last = np.flatnonzero(reached != true).max()
        assert last < aligned.longest_prompt and (np.diff(reached) >= 0).all() and reached[-1] == true[-1]


def test_speech_with_fewer_frames_than_tokens_is_read_evenly(spelled):
    data, codec, _ = spelled
    speech = alignments._Speech(data, codec)
    speech.batch = lambda items: (None, None, torch.tensor([4]), torch.tensor([9]))
    places = alignments._places(speech, None, 0)
    assert len(places) == len(data.store[0].codes["rvq"]) and places[-1] == 8 and len(set(places.tolist())) == 9


def test_a_batch_holds_the_advances_before_the_codes(spelled, found):
    data, _, _ = spelled
    plain, pointed = ar_batch(data, [0, 1]), ar_batch(data, [0, 1], lambda index, name: found[1].advances(index))
    assert torch.equal(pointed.codes[:, 1:], plain.codes)
    length = int(plain.frame_lengths[1])
    assert pointed.codes[1, 0, :length].tolist() == found[1].advances(1).tolist()


def test_no_utterance_is_changed_without_a_share():
    aligned = Alignments(np.arange(30, dtype=np.uint16), np.array([0, 30]), 0.0, 20)
    assert (aligned.advances(0, Random(0)).cumsum() == np.arange(30)).all()


def test_what_other_settings_found_is_found_anew(spelled, found, tmp_path, monkeypatch):
    data, codec, _ = spelled
    folder = shutil.copytree(found[0], tmp_path / "alignments")
    trained = []
    monkeypatch.setattr(alignments, "align", lambda *_: trained.append(1) or {0: np.zeros(3, np.uint16)})
    make_alignments(folder, data, codec, SHORT.model_copy(update={"spread_share": 0.9}), seed=0)
    assert not trained, "the beginnings are spread when they are read"
    make_alignments(folder, data, codec, SHORT.model_copy(update={"steps": SHORT.steps + 1}), seed=0)
    assert len(trained) == 1 and len(load_alignments(folder, SHORT, data.lowest.frame_rate).of(0)) == 3
    (folder / "key.json").unlink()  # of before
    (folder / "checksums.json").unlink()
    write_checksums(folder)
    make_alignments(folder, data, codec, SHORT, seed=1)
    assert len(trained) == 1
