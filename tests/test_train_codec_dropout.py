"""`halle train-codec` whose decoder learns to speak from the first codebooks alone."""

from __future__ import annotations

import pytest
import torch
from codec_runs import assert_same_state, codec_config, make_manifest

from stages import train_codec
from stages.errors import UsageError
from stages.training.loop import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"))


def test_the_decoder_gets_the_first_codebooks_of_the_crops_that_were_drawn(data, tmp_path):
    config = codec_config(data, tmp_path / "run", 2, "codebook_dropout=[1.0]")
    process = Run(config)
    process.begin_step(1)
    task = train_codec.CodecTask(config, train_codec._open(config), process)
    batch = task.batch(1, 0, process)
    assert batch.depths.tolist() == [1] * len(batch.waveforms)
    output = task.codec.quantizer(task.codec.encode_latents(batch.waveforms))
    assert torch.equal(task.decoded(output, batch.depths), output.partial_sums[0])
    assert not torch.equal(output.partial_sums[0], output.quantized)
    everything = torch.full_like(batch.depths, task.codec.num_codebooks)
    assert torch.equal(task.decoded(output, everything), output.quantized)


def test_a_run_with_dropped_codebooks_resumes_bit_for_bit(data, tmp_path):
    settings = ("codebook_dropout=[0.5, 0.0, 0.2]", "training.accumulation=2")
    train_codec.run(codec_config(data, tmp_path / "whole", 6, *settings))
    for steps in (3, 6):
        train_codec.run(codec_config(data, tmp_path / "parts", steps, *settings))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_shares_that_are_none_are_refused(data, tmp_path):
    for dropout, message in (("[0.8, 0.3]", "at most 1"), (str([0.1] * 8), "at most 7 shares")):
        with pytest.raises(UsageError, match=message):
            train_codec.run(codec_config(data, tmp_path / "run", 2, f"codebook_dropout={dropout}"))
    assert not (tmp_path / "run").exists()
