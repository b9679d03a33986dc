"""Sub-encoders and sub-decoders of an LRVQ block: latents at 48 Hz to a block's frame rate and back (section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from stages.config.models import MRVQConfig
from stages.errors import UsageError


class BiLSTM(nn.Module):
    """Bi-directional LSTM layers with an additive skip over [batch, dim, frames].

    Half the width in each direction keeps the width, so the skip adds as in SEANet (inferred).
    """

    def __init__(self, dim: int, num_layers: int):
        super().__init__()
        if dim % 2:
            raise UsageError(
                f"a bi-directional LSTM needs an even width: expected an even latent_dim, got `{dim}`",
                hint="set the `latent_dim` of the codec to an even number",
            )
        self.lstm = nn.LSTM(dim, dim // 2, num_layers, batch_first=True, bidirectional=True)

    def forward(self, latents: Tensor) -> Tensor:
        rows = latents.transpose(1, 2)
        return (rows + self.lstm(rows)[0]).transpose(1, 2)


class SubEncoder(nn.Module):
    """E_k: one strided convolution, then bi-LSTM layers; frames / stride exactly."""

    def __init__(self, dim: int, stride: int, config: MRVQConfig):
        super().__init__()
        kernel = config.kernel_per_stride * stride
        missing = kernel - stride
        self.padding = (missing - missing // 2, missing // 2)
        self.activation = nn.ELU()
        self.convolution = weight_norm(nn.Conv1d(dim, dim, kernel, stride))
        self.lstm = BiLSTM(dim, config.lstm_layers)

    def forward(self, latents: Tensor) -> Tensor:
        padded = nn.functional.pad(self.activation(latents), self.padding)
        return self.lstm(self.convolution(padded))


class SubDecoder(nn.Module):
    """D_k: bi-LSTM layers, then one transposed convolution; frames * stride exactly."""

    def __init__(self, dim: int, stride: int, config: MRVQConfig):
        super().__init__()
        kernel = config.kernel_per_stride * stride
        extra = kernel - stride
        self.trim = (extra - extra // 2, extra // 2)
        self.lstm = BiLSTM(dim, config.lstm_layers)
        self.activation = nn.ELU()
        self.convolution = weight_norm(nn.ConvTranspose1d(dim, dim, kernel, stride))

    def forward(self, latents: Tensor) -> Tensor:
        longer = self.convolution(self.activation(self.lstm(latents)))
        return longer[..., self.trim[0] : longer.shape[-1] - self.trim[1]]
