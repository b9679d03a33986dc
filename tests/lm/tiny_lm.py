"""A tiny AR model and utterances for the tests of this folder."""

import torch

from stages.config.models import ARConfig, TransformerConfig
from stages.lm.ar import ARModel
from stages.lm.inference import load_for_speaking

SIZE, STREAMS = 11, 6
TINY = TransformerConfig(dim=32, num_heads=4, num_layers=2, ffn_dim=64)


def make_ar(num_codebooks=STREAMS, attention="causal", pointer=False, prefix=True):
    torch.manual_seed(0)
    config = ARConfig(
        transformer=TINY,
        num_codebooks=num_codebooks,
        codebook_size=SIZE,
        text_vocab_size=20,
        text_attention=attention,
        text_pointer=pointer,
        text_prefix=prefix,
    )
    return ARModel(config).eval()


def ready(model, precision="fp32"):
    """Return a model as it speaks; it is changed."""
    state = dict(model.state_dict())
    return load_for_speaking(model.to("meta"), state.__getitem__, torch.device("cpu"), precision)


def utterance(num_tokens, num_frames, num_codebooks=STREAMS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(20, (1, num_tokens), generator=generator)
    return text, torch.randint(SIZE, (1, num_codebooks, num_frames), generator=generator)
