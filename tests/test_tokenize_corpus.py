from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stages import tokenize_corpus
from stages.artifacts.checkpoint import exported_tensors, save_checkpoint
from stages.artifacts.manifest import write_manifest
from stages.artifacts.token_store import TokenStore, open_store
from stages.codec.base import Codec
from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.registry import codec_fingerprint, export_codec, load_codec
from stages.codec.residual import ResidualCodec
from stages.config.models import CodecConfig, MRVQConfig, QuantizerConfig, SEANetConfig
from stages.config.stage_configs import TokenizeConfig
from stages.data.encoding import encode_batch
from stages.errors import BadInputsError, UsageError
from stages.text.normalizer import NORMALIZER_VERSION
from stages.text.tokenizer import TextTokenizer

TEXTS = ["The cat sat on the mat.", "A dog ran home at 5 o'clock.", "She has 2 birds.", "It rains today!",
         "Why not, said the cat?", "Mr. Fox is out.", "They all went home.", "And then it was dark."]
SECONDS = [0.9, 0.5, 0.52, 0.9, 0.3, 0.61, 0.7, 1.13]


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small multi-resolution codec whose codebooks were found on noise, so that many codes occur."""
    torch.manual_seed(0)
    config = CodecConfig(seanet=SEANetConfig(base_filters=2, latent_dim=8, lstm_layers=1),
                         quantizer=QuantizerConfig(codebook_size=16, kmeans_iterations=3))
    noise = torch.randn(4, 1, 24_000) * torch.linspace(0.01, 0.5, 24_000)
    teacher = ResidualCodec(config).eval()
    with torch.no_grad():
        latents = teacher.encode_latents(noise)
        teacher.quantizer.initialise(latents.transpose(1, 2).reshape(-1, 8))
        codec = MultiResolutionCodec.from_teacher(teacher, MRVQConfig(lstm_layers=1)).eval()
        codec.mrvq.initialise(latents)
    file = tmp_path_factory.mktemp("codec") / "mreq.pt"
    export_codec(codec, file)
    return file


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus")


def make_corpus(folder: Path, texts: list[str] = TEXTS) -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for index, (text, seconds) in enumerate(zip(texts, SECONDS, strict=True)):
        waveform = generator.normal(0, 0.1, round(seconds * 24_000)).astype(np.float32)
        soundfile.write(folder / f"{index}.flac", waveform, 24_000)
        rows.append({"id": f"u{index}", "audio": f"{index}.flac", "start": 0.0, "duration": seconds,
                     "speaker": f"s{index % 2}", "text": text, "split": "train" if index < 6 else "test"})
    write_manifest(folder, rows)
    return folder


def settings(codec_file: Path, corpus: Path, out: Path, **changes: object) -> TokenizeConfig:
    values = {"codec": str(codec_file), "data": str(corpus), "out": str(out), "device": "cpu", "shard_utterances": 3,
              "unknown_characters": "drop", **changes}
    return TokenizeConfig(**values)


def token_files(store: Path) -> dict[str, bytes]:
    """Everything but what tells about the run itself: its settings (`out` differs), log and times."""
    about_the_run = {"config.json", "provenance.json", "log.txt"}
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in sorted(store.rglob("*"))
            if file.is_file() and file.name not in about_the_run}


def true_codes(codec: Codec, file: Path) -> dict[str, np.ndarray]:
    waveform, _ = soundfile.read(file, dtype="float32")
    streams = codec.encode(torch.from_numpy(waveform)[None, None])
    return {name: codes[0].T.numpy() for name, codes in streams.items()}


def test_the_store_holds_text_and_codes_of_every_utterance(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    result = tokenize_corpus.run(settings(codec_file, corpus, tmp_path / "store"))
    store, codec = open_store(tmp_path / "store"), load_codec(codec_file)
    tokenizer = TextTokenizer.load(tmp_path / "store")
    assert [stream.name for stream in store.streams] == [spec.name for spec in codec.streams]
    assert [row["id"] for row in store.rows] == [f"u{index}" for index in range(8)]
    assert [row["split"] for row in store.rows] == ["train"] * 6 + ["test"] * 2
    for index in range(len(store)):
        utterance = store[index]
        assert utterance.num_samples == round(SECONDS[index] * 24_000)
        assert tokenizer.decode(utterance.text_tokens) == utterance.text.lower()
        for name, codes in true_codes(codec, corpus / f"{index}.flac").items():
            np.testing.assert_array_equal(utterance.codes[name], codes)
    assert store[1].text == "A dog ran home at five o'clock."
    assert len(np.unique(np.concatenate([store[i].codes["quant1"] for i in range(8)]))) > 4
    assert result["utterances"] == 8 and result["shards"] == 3


def test_totals_follow_from_the_lengths(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    result = tokenize_corpus.run(settings(codec_file, corpus, tmp_path / "store"))
    aligned = [-(-round(seconds * 24_000) // 3000) for seconds in SECONDS]  # frames at 8 Hz
    assert result["frames"]["quant1"] == sum(aligned)
    assert result["frames"]["quant2"] == 2 * sum(aligned) and result["frames"]["quant4"] == 6 * sum(aligned)
    assert result["hours"] == pytest.approx(sum(SECONDS) / 3600, abs=1e-4)
    assert result["bits_per_second"] == 384 * 4  # 16 entries are 4 bits; 3840 with 1024
    facts = json.loads((tmp_path / "store" / "store.json").read_text(encoding="utf-8"))
    words = sum(len(row["text"].split()) for row in open_store(tmp_path / "store").rows)
    assert facts["words"] == words == 38
    assert result["text_tokens_per_word"] == pytest.approx(facts["totals"]["text_tokens"] / words, abs=1e-3)


def test_codes_of_a_batch_equal_codes_one_by_one(codec_file: Path) -> None:
    codec, generator = load_codec(codec_file), np.random.default_rng(1)
    waveforms = [generator.normal(0, 0.2, length).astype(np.float32) for length in (15_000, 14_200, 12_001)]
    together = encode_batch(codec, waveforms)
    alone = [encode_batch(codec, [waveform])[0] for waveform in waveforms]
    for batched, single in zip(together, alone, strict=True):
        for name, codes in single.items():
            assert np.mean(batched[name] == codes) >= 0.999
            assert codes.dtype == np.uint16


def test_the_size_of_batches_changes_nothing(codec_file: Path, corpus: Path,
                                             tmp_path: Path) -> None:
    for name, seconds in (("small", 0.1), ("large", 60.0)):
        tokenize_corpus.run(settings(codec_file, corpus, tmp_path / name, batch_seconds=seconds, shard_utterances=8))
    assert token_files(tmp_path / "small") == token_files(tmp_path / "large")


def test_the_number_of_workers_changes_nothing(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    (corpus / "1.flac").write_bytes(b"not audio at all" * 10)
    for name, workers in (("one", 1), ("three", 3)):
        config = settings(codec_file, corpus, tmp_path / name, workers=workers, batch_seconds=0.1, max_bad="1")
        assert tokenize_corpus.run(config)["rejected"] == {"NOT_AUDIO": 1}
    assert token_files(tmp_path / "one") == token_files(tmp_path / "three")


class Killed(BaseException):
    """Stands for a killed process: nothing catches it."""


def test_a_killed_run_continues_with_the_missing_shards(codec_file: Path, corpus: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    tokenize_corpus.run(settings(codec_file, corpus, tmp_path / "whole"))
    killed, encoded = settings(codec_file, corpus, tmp_path / "killed"), []
    encode = tokenize_corpus._encode_shard

    def counting(items: list, *rest: object) -> object:
        encoded.append(items[0].utterance.id)
        if encoded == ["u0", "u3"]:
            raise Killed
        return encode(items, *rest)

    monkeypatch.setattr(tokenize_corpus, "_encode_shard", counting)
    with pytest.raises(Killed):
        tokenize_corpus.run(killed)
    with pytest.raises(UsageError, match="finished token store"):
        open_store(tmp_path / "killed")
    tokenize_corpus.run(killed)
    assert encoded == ["u0", "u3", "u3", "u6"]
    assert token_files(tmp_path / "killed") == token_files(tmp_path / "whole")


def test_processes_share_the_shards(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    tokenize_corpus.run(settings(codec_file, corpus, tmp_path / "one"))
    config = settings(codec_file, corpus, tmp_path / "two")
    work = tokenize_corpus._read_inputs(config)
    writer = tokenize_corpus.TokenStoreWriter(tmp_path / "two", tokenize_corpus._stream_infos(work.codec))
    tokenize_corpus.write_shards(work, writer, config, torch.device("cpu"), rank=1, world_size=2)
    assert [writer.has_shard(index) for index in range(3)] == [False, True, False]
    tokenize_corpus.write_shards(work, writer, config, torch.device("cpu"), rank=0, world_size=2)
    assert [writer.has_shard(index) for index in range(3)] == [True, True, True]
    shards = {name: data for name, data in token_files(tmp_path / "one").items() if name.startswith("shard-")}
    assert token_files(tmp_path / "two") == shards


def test_a_finished_store_is_left_alone(codec_file: Path, corpus: Path, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(codec_file, corpus, tmp_path / "store")
    first = tokenize_corpus.run(config)
    monkeypatch.setattr(tokenize_corpus, "_encode_shard", None)
    assert tokenize_corpus.run(config.model_copy(update={"batch_seconds": 5.0})) == first
    assert len(open_store(tmp_path / "store")) == 8


def test_tokens_of_another_codec_are_refused(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    tokenize_corpus.run(settings(codec_file, corpus, tmp_path / "store"))
    codec = load_codec(codec_file)
    with torch.no_grad():
        codec.mrvq.blocks[0].pre.codebooks[0].codebook.add_(0.1)
    export_codec(codec, tmp_path / "other.pt")
    other = settings(tmp_path / "other.pt", corpus, tmp_path / "store")
    with pytest.raises(UsageError, match=r"`codec` was `[0-9a-f]{12}`, is `[0-9a-f]{12}`"):
        tokenize_corpus.run(other)
    with pytest.raises(UsageError, match="cannot share a store"):
        tokenize_corpus.run(other.model_copy(update={"allow_change": ("codec",)}))


def test_unusable_utterances_are_listed_with_reasons(codec_file: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", [*TEXTS[:3], " ... ", *TEXTS[4:]])
    (corpus / "1.flac").write_bytes(b"not audio at all" * 10)
    soundfile.write(corpus / "5.flac", np.zeros(14_640, dtype=np.float32), 24_000)
    config = settings(codec_file, corpus, tmp_path / "store")
    with pytest.raises(BadInputsError, match=r"3 of 8 .* at most 10% may") as error:
        tokenize_corpus.run(config)
    assert "--max-bad 3" in error.value.hint
    result = tokenize_corpus.run(config.model_copy(update={"max_bad": "3"}))
    assert result["rejected"] == {"NOT_AUDIO": 1, "NO_TEXT": 1, "SILENT": 1} and result["utterances"] == 5
    rows = [json.loads(line) for line in (tmp_path / "store" / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [(row["id"], row["reason"]) for row in rows] == [("u1", "NOT_AUDIO"), ("u3", "NO_TEXT"), ("u5", "SILENT")]
    assert [row["id"] for row in open_store(tmp_path / "store").rows] == ["u0", "u2", "u4", "u6", "u7"]


@pytest.mark.parametrize("policy", ["skip", "drop", "fail"])
def test_unknown_characters_follow_the_policy(policy: str, codec_file: Path, tmp_path: Path,
                                              caplog: pytest.LogCaptureFixture) -> None:
    corpus = make_corpus(tmp_path / "corpus", [*TEXTS[:7], "And then語 it wa語s dark."])
    config = settings(codec_file, corpus, tmp_path / "store", unknown_characters=policy, max_bad="1")
    if policy == "fail":
        with pytest.raises(UsageError, match=r"1 of 8 texts .* `語` \(U\+8A9E\) 2 times"):
            tokenize_corpus.run(config)
        return
    with caplog.at_level(logging.WARNING, "halle"):
        result = tokenize_corpus.run(config)
    assert "`語` (U+8A9E) 2 times" in caplog.text
    store = open_store(tmp_path / "store")
    if policy == "skip":
        assert result["rejected"] == {"UNKNOWN_CHARACTERS": 1} and len(store) == 7
    else:
        assert result["dropped_characters"] == {"語": 2} and store[7].text == "And then it was dark."


def test_a_text_tokenizer_can_be_reused(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train([*TEXTS, "five two Mister other words"])
    tokenizer.save(tmp_path / "tokenizer.json")
    config = settings(codec_file, corpus, tmp_path / "store", text_tokenizer=str(tmp_path / "tokenizer.json"))
    tokenize_corpus.run(config)
    store: TokenStore = open_store(tmp_path / "store")
    assert store.text_tokenizer_fingerprint == tokenizer.fingerprint
    assert store[0].text_tokens.tolist() == tokenizer.encode(store[0].text)
    with pytest.raises(UsageError, match="expected a text tokenizer of 300 entries, got 258"):
        tokenize_corpus.run(config.model_copy(update={"text_vocab_size": 300, "out": str(tmp_path / "new")}))


def test_a_store_begun_with_texts_of_another_normaliser_is_not_continued(codec_file: Path, corpus: Path, tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    TextTokenizer.train(TEXTS).save(tmp_path / "tokenizer.json")
    config = settings(codec_file, corpus, tmp_path / "store", text_tokenizer=str(tmp_path / "tokenizer.json"))
    tokenize_corpus.run(config)
    (tmp_path / "store" / "checksums.json").unlink()
    shutil.rmtree(tmp_path / "store" / "shard-00001")
    monkeypatch.setattr(tokenize_corpus, "NORMALIZER_VERSION", "en-99")
    for begin in (tokenize_corpus.plan, tokenize_corpus.run):
        with pytest.raises(UsageError, match=rf"`text_normalizer` was `{NORMALIZER_VERSION}`, is `en-99`"):
            begin(config)


def make_ar(folder: Path, codec_file: Path, tokenizer: TextTokenizer, **changes: object) -> Path:
    """A checkpoint that says of itself what an AR model does; it has no weights."""
    facts = {"loudness_db": -20.0, "text_tokenizer_json": tokenizer.to_json(), **changes}
    parents = {"codec": codec_fingerprint(load_codec(codec_file)), "text_tokenizer": tokenizer.fingerprint}
    save_checkpoint(folder, "ar", facts, {}, parents)
    return folder


@pytest.fixture
def cased() -> TextTokenizer:
    """Of other texts, size and case than a store would choose by itself."""
    return TextTokenizer.train([*TEXTS, "five two Mister other words"], vocab_size=90, lowercase=False)


@pytest.mark.parametrize("like", ["run", "checkpoint", "store"])
def test_a_store_like_a_model_has_its_text_tokens_whatever_the_settings(like: str, codec_file: Path, corpus: Path,
                                                                        tmp_path: Path, cased: TextTokenizer) -> None:
    if like == "store":
        cased.save(tmp_path / "tokenizer.json")
        tokenize_corpus.run(settings(codec_file, corpus, tmp_path / like, text_vocab_size=90,
                                     text_tokenizer=str(tmp_path / "tokenizer.json")))
    else:
        make_ar(tmp_path / like / ("checkpoints/step-00000001" if like == "run" else "."), codec_file, cased)
    config = settings(codec_file, corpus, tmp_path / "new", like=str(tmp_path / like))
    assert tokenize_corpus.plan(config)["text_tokenizer"] == f"reused: {tmp_path / like}"
    tokenize_corpus.run(config)
    store = open_store(tmp_path / "new")
    assert store.text_tokenizer_fingerprint == cased.fingerprint
    assert store[0].text_tokens.tolist() == cased.encode("The cat sat on the mat.") != cased.encode("the cat")


def test_a_model_folder_also_gives_the_codec(codec_file: Path, corpus: Path, tmp_path: Path,
                                             cased: TextTokenizer) -> None:
    model, codec = tmp_path / "model", load_codec(codec_file)
    make_ar(model / "ar", codec_file, cased)
    save_checkpoint(model / "codec", "codec", codec.export_config(), exported_tensors(codec), {})
    (model / "model.json").write_text("{}", encoding="utf-8")
    tokenize_corpus.run(settings(codec_file, corpus, tmp_path / "store", codec="", like=str(model)))
    store = open_store(tmp_path / "store")
    assert store.codec_fingerprint == codec_fingerprint(codec)
    assert store.text_tokenizer_fingerprint == cased.fingerprint
    with pytest.raises(UsageError, match=r"expected a codec after --codec, got none: `.*ar` holds none"):
        tokenize_corpus.plan(settings(codec_file, corpus, tmp_path / "x", codec="", like=str(model / "ar")))


def test_a_store_like_a_model_of_another_codec_is_refused_but_may_share_its_text_tokenizer(
        codec_file: Path, corpus: Path, tmp_path: Path, cased: TextTokenizer) -> None:
    codec = load_codec(codec_file)
    with torch.no_grad():
        codec.mrvq.blocks[0].pre.codebooks[0].codebook.add_(0.1)
    export_codec(codec, tmp_path / "other.pt")
    model = make_ar(tmp_path / "ar", tmp_path / "other.pt", cased)
    with pytest.raises(UsageError, match=r"tokens of codec `[0-9a-f]{12}`, but `.*mreq.pt` is codec") as error:
        tokenize_corpus.run(settings(codec_file, corpus, tmp_path / "store", like=str(model)))
    assert f"--text-tokenizer {model}" in error.value.hint and not (tmp_path / "store").exists()
    shared = settings(codec_file, corpus, tmp_path / "store", text_tokenizer=str(model), text_vocab_size=90)
    tokenize_corpus.run(shared)
    assert open_store(tmp_path / "store").text_tokenizer_fingerprint == cased.fingerprint


def test_what_cannot_be_liked_is_refused(codec_file: Path, corpus: Path, tmp_path: Path, cased: TextTokenizer) -> None:
    codec = load_codec(codec_file)
    save_checkpoint(tmp_path / "codec", "codec", codec.export_config(), exported_tensors(codec), {})
    for like, says in (("codec", "which halle train-codec or halle mreq made"), ("none", "which does not exist")):
        with pytest.raises(UsageError, match=says):
            tokenize_corpus.plan(settings(codec_file, corpus, tmp_path / "store", like=str(tmp_path / like)))
    model = str(make_ar(tmp_path / "ar", codec_file, cased))
    with pytest.raises(UsageError, match="one of --like and --text-tokenizer, got both"):
        tokenize_corpus.plan(settings(codec_file, corpus, tmp_path / "store", like=model, text_tokenizer=model))


def test_speech_that_is_not_as_loud_as_the_model_s_is_warned_about(
        codec_file: Path, corpus: Path, tmp_path: Path, cased: TextTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    louder = make_ar(tmp_path / "louder", codec_file, cased)
    unknown = make_ar(tmp_path / "unknown", codec_file, cased, loudness_db=None)
    tokenize_corpus.plan(settings(codec_file, corpus, tmp_path / "store", like=str(unknown)))
    assert "RMS" not in caplog.text
    tokenize_corpus.plan(settings(codec_file, corpus, tmp_path / "store", like=str(louder)))
    assert "speech at -20 dB RMS, this is left as it was (halle curate -O loudness_db=-20" in caplog.text


def test_the_plan_counts_work_and_writes_nothing(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    config = settings(codec_file, corpus, tmp_path / "store")
    plan = tokenize_corpus.plan(config)
    assert plan["utterances"] == 8 and plan["shards"] == {"all": 3, "done": 0}
    assert not (tmp_path / "store").exists()
    tokenize_corpus.run(config)
    assert tokenize_corpus.plan(config)["shards"] == {"all": 3, "done": 3}


def test_wrong_inputs_are_named(codec_file: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a codec after --codec, got none"):
        tokenize_corpus.plan(settings(codec_file, corpus, tmp_path / "store", codec=""))
    with pytest.raises(UsageError, match="expected a manifest folder"):
        tokenize_corpus.plan(settings(codec_file, tmp_path / "none", tmp_path / "store"))
    with pytest.raises(UsageError, match="expected a codec"):
        tokenize_corpus.plan(settings(corpus, corpus, tmp_path / "store"))


def test_a_plain_codec_gives_one_stream(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CodecConfig(seanet=SEANetConfig(base_filters=2, latent_dim=8, lstm_layers=1),
                         quantizer=QuantizerConfig(codebook_size=16))
    codec = ResidualCodec(config).eval()
    codec.quantizer.initialise(torch.randn(64, 8))
    export_codec(codec, tmp_path / "encodec.pt")
    tokenize_corpus.run(settings(tmp_path / "encodec.pt", corpus, tmp_path / "store"))
    store = open_store(tmp_path / "store")
    assert [(stream.name, stream.num_codebooks) for stream in store.streams] == [("rvq", 8)]
    assert store[0].codes["rvq"].shape == (-(-21_600 // 500), 8)
