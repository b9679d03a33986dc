"""Recognisers of real architectures and tiny width, with random weights: they say nonsense, the way real ones speak."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.utils import logging

_SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>",
            "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
_TIMES = [f"<|{0.02 * step:.2f}|>" for step in range(1501)]


def save_whisper(folder: Path, multilingual: bool = True, timestamps: bool = True) -> Path:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    letters = sorted(ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*letters, *_SPECIAL, *_TIMES])}
    tokenizer = WhisperTokenizer(vocab={letter: ids[letter] for letter in letters} | {_SPECIAL[0]: ids[_SPECIAL[0]]},
                                 merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL[1:]})
    tokenizer.add_tokens(_TIMES)
    assert tokenizer.convert_tokens_to_ids(_TIMES[-1]) == ids[_TIMES[-1]]
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(ids), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=40, pad_token_id=end,
        bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, suppress_tokens=None,
        begin_suppress_tokens=None)  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    told = {"lang_to_id": {name: ids[name] for name in ("<|en|>", "<|zh|>")},
            "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}}
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, eos_token_id=end, pad_token_id=end, bos_token_id=end, max_length=40,
        is_multilingual=multilingual, prev_sot_token_id=ids["<|startofprev|>"],
        **({"no_timestamps_token_id": ids["<|notimestamps|>"], "max_initial_timestamp_index": 50} if timestamps
           else {}), **(told if multilingual else {}))  # fmt: skip
    model.save_pretrained(folder)
    return folder


def save_ctc(folder: Path) -> Path:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}),
                                       encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder
