"""Networks for clips (N, channels, T, Y, X): a 2-D network on every frame, then time.

`cnn_lstm` sees the order of the frames, `frame_cnn` does not: the difference is motion.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from models.spec import Model

# Number of features of a frame, and of the LSTM's state. Assumptions.
FEATURES = 64
HIDDEN = 64


class Frames(nn.Module):
    """A 2-D network on every frame: clips (N, channels, T, Y, X) to features (N, T, FEATURES)."""

    def __init__(self, row: Model, in_channels: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.network = row.build(
            in_channels=in_channels, out_channels=FEATURES, dims=2, patch=patch[1:]
        )
        self.stages = tuple(f"encoder.network.{stage}" for stage in row.stages(self.network))

    def forward(self, clip: Tensor) -> Tensor:
        """Return the features of each frame."""
        frames = clip.transpose(1, 2)
        features: Tensor = self.network(frames.flatten(0, 1))
        return features.reshape(*frames.shape[:2], FEATURES)


class FrameCNN(nn.Module):
    """Clips (N, channels, T, Y, X) to the mean of the frames' logits (N, out_channels)."""

    def __init__(self, encoder: Frames, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(FEATURES, out_channels)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.dropout(self.encoder(clip)))
        return logits.mean(1)


class CNNLSTM(nn.Module):
    """Clips (N, channels, T, Y, X) to logits (N, out_channels), from an LSTM's state at the end."""

    def __init__(self, encoder: Frames, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(HIDDEN, out_channels)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the logits."""
        states, _ = self.lstm(self.encoder(clip))
        logits: Tensor = self.head(self.dropout(states[:, -1]))
        return logits


def frame_cnn(
    *,
    in_channels: int,
    out_channels: int,
    dims: int,
    patch: tuple[int, ...],
    encoder: str,
    dropout: float,
    encoders: Mapping[str, Model],
) -> FrameCNN:
    """Return the network that ignores order; `encoder` is one of `encoders`, with its settings."""
    del dims
    return FrameCNN(Frames(encoders[encoder], in_channels, patch), out_channels, dropout)


def cnn_lstm(
    *,
    in_channels: int,
    out_channels: int,
    dims: int,
    patch: tuple[int, ...],
    encoder: str,
    dropout: float,
    encoders: Mapping[str, Model],
) -> CNNLSTM:
    """Return the network that sees order; `encoder` is one of `encoders`, with its settings."""
    del dims
    return CNNLSTM(Frames(encoders[encoder], in_channels, patch), out_channels, dropout)


def clip_stages(network: nn.Module) -> tuple[str, ...]:
    """Return the stages of the 2-D network, then what is above them."""
    encoder = network.get_submodule("encoder")
    assert isinstance(encoder, Frames)
    above = [name for name in ("lstm", "head") if hasattr(network, name)]
    return (*encoder.stages, *above)
