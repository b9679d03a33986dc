"""What an earlier version wrote is read for ever, and means what it meant."""

import numpy as np
import pytest
import torch
from kept_artifacts import KEPT, V1

from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.manifest import read_manifest
from stages.artifacts.storage import FORMAT_VERSION
from stages.artifacts.token_store import open_store
from stages.audio.io import read_audio
from stages.codec.registry import codec_fingerprint, load_codec
from stages.config.models import ARConfig, NARConfig
from stages.config.resolve import resolve
from stages.lm.ar import ARModel
from stages.lm.nar import NARModel
from stages.synthesis.model import load_speech_model
from stages.text.tokenizer import TextTokenizer


def as_streams(codes: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values.T.astype(np.int64))[None] for name, values in codes.items()}


def test_artifacts_of_every_format_are_kept():
    assert [folder.name for folder in sorted(KEPT.iterdir())] == [f"v{n + 1}" for n in range(FORMAT_VERSION)]


def test_a_manifest_of_format_1_and_its_audio_are_read():
    manifest = read_manifest(V1 / "manifest")
    assert manifest.fingerprint == "fb3c868ed9265a8bb099b46fa25508b70b9e9d53e09cecec9a9c8fe9799535d9"
    row = manifest.utterances[1]
    assert (row.id, row.duration, row.split, row.extra) == ("u1", 0.25, "test", {"license": "CC0-1.0"})
    wave = read_audio(row.audio, 24_000)
    assert len(wave) == 6000 and wave[20] == pytest.approx(0.25, abs=1e-3)  # a quarter of a period of 300 Hz


def test_a_token_store_of_format_1_is_read():
    store = open_store(V1 / "store")
    assert store.fingerprint == "f4280f88ef3dbe053f8002abc1e388c196983b3864dc58867acc23390e869865"
    utterance = store[1]
    assert utterance.codes["quant1"].tolist() == [[3, 5], [3, 5], [3, 5], [4, 7]]
    assert utterance.text_tokens.tolist() == [23, 32, 22, 12, 27, 24, 33, 37, 25, 14, 2]
    assert TextTokenizer.load(V1 / "store").decode(utterance.text_tokens.tolist()) == "another line follows it"


def test_a_text_tokenizer_of_format_1_encodes_as_it_did():
    tokenizer = TextTokenizer.load(V1 / "text_tokenizer.json")
    assert tokenizer.fingerprint == "b54b9626b5de6e3f1de3e8544f39e540613039231a8fc356fc42b737af510303"
    assert tokenizer.encode("the line") == [38, 27, 2]


def test_a_codec_of_a_model_folder_of_format_1_decodes_the_codes_of_its_store():
    codec, utterance = load_codec(V1 / "model"), open_store(V1 / "store")[1]
    assert codec_fingerprint(codec) == open_store(V1 / "store").codec_fingerprint
    wave = codec.decode(as_streams(utterance.codes), utterance.num_samples)
    assert wave.shape == (1, 1, 4000)
    expected = torch.tensor([-0.01012872, 0.00275526, -0.0026756])
    assert torch.allclose(wave[0, 0, [100, 1000, 3500]], expected, atol=1e-4)


def test_a_one_file_codec_of_format_1_decodes():
    codec = load_codec(V1 / "codec.pt")
    assert codec_fingerprint(codec) == "6102a1be4df0fcb7ca16bd17a4e107604fd439dba970650ea43840d3dcfc3e79"
    wave = codec.decode({"rvq": torch.arange(8)[None, None].repeat(1, 2, 1)})
    assert torch.allclose(wave[0, 0, [50, 300, 500]], torch.tensor([-0.708059, -2.575356, -2.577227]), atol=1e-3)


def test_a_run_of_format_1_stands_for_its_checkpoint_whose_losses_are_what_they_were():
    checkpoint, utterance = load_checkpoint(V1 / "run", "ar"), open_store(V1 / "store")[1]
    ar = ARModel(ARConfig.model_validate(checkpoint.architecture["model"])).eval()
    ar.load_state_dict(checkpoint.tensors)
    text = torch.from_numpy(utterance.text_tokens.astype(np.int64))[None]
    codes = as_streams(utterance.codes)["quant1"]
    sums = ar.loss(text, torch.tensor([text.shape[1]]), codes, torch.tensor([codes.shape[-1]]))
    assert torch.allclose(sums.losses, torch.tensor([10.397467, 13.751988]), atol=1e-4)


def test_a_model_of_format_1_is_loaded_to_speak_and_its_nar_computes_what_it_did():
    checkpoint = load_checkpoint(V1 / "model", "nar")
    nar = NARModel(NARConfig.model_validate(checkpoint.architecture["model"])).eval()
    nar.load_state_dict(checkpoint.tensors)
    logits = nar(torch.ones(1, 4, 6), torch.tensor([2]), torch.tensor([[3, 4, 5]]))
    assert torch.allclose(logits[0, 0, :3], torch.tensor([1.206112, 0.127823, 1.382418]), atol=1e-4)
    model = load_speech_model(resolve("synth", "smoke", options={"model": str(V1 / "model")}), torch.device("cpu"))
    assert (model.system, model.max_frames, model.window_seconds) == ("halle", 8, 1.0)
