from __future__ import annotations

import pytest
import torch
from tiny_codecs import make_student, synthetic_speech, tiny_teacher
from torch import Tensor

from stages.codec.mrvq import MultiResolutionCodec
from stages.codec.residual import ResidualCodec
from stages.config.models import MRVQConfig


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def waveform() -> Tensor:
    return synthetic_speech(2, 24_000)


@pytest.fixture
def teacher() -> ResidualCodec:
    return tiny_teacher()


@pytest.fixture
def student(teacher: ResidualCodec) -> MultiResolutionCodec:
    return make_student(teacher, MRVQConfig())
