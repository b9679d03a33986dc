import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lm.delay import delay, undelay


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(0, 12))
def test_undelay_inverts_delay_and_drops_no_frame(batch, num_codebooks, num_frames):
    codes = torch.arange(batch * num_codebooks * num_frames).reshape(batch, num_codebooks, num_frames)
    late = delay(codes, fill=-1)
    assert late.shape == (batch, num_codebooks, num_frames + num_codebooks - 1)
    assert torch.equal(undelay(late), codes)
    assert (late == -1).sum() == batch * num_codebooks * (num_codebooks - 1)


def test_delay_equals_a_slow_loop():
    codes = torch.arange(1, 13).reshape(1, 3, 4)
    late = delay(codes, fill=0)
    for stream in range(3):
        for step in range(6):
            frame = step - stream
            assert late[0, stream, step] == (codes[0, stream, frame] if 0 <= frame < 4 else 0)


def test_undelay_refuses_fewer_steps_than_the_delay_takes():
    with pytest.raises(ValueError, match="at least 5 steps, got 4"):
        undelay(torch.zeros(1, 6, 4))
