"""A HuBERT of the real shape in time (400 samples seen, 320 a frame) and tiny in width, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
from transformers.utils import logging

NUM_LAYERS = 2
DIM = 24


def save_hubert(folder: Path, normalize: bool = True) -> Path:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=DIM, num_hidden_layers=NUM_LAYERS, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return folder
