"""Log-mel frames → vectors, train/validation split, batches.

P: frames per vector, M: mel bands, D = P * M, T: frames per clip, K: vectors per clip, B: vectors per batch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from config import BaselineError
from datasets.clips import Clip
from datasets.feature_cache import LogMels


class Vectors:
    """The vectors of several clips. A vector consists of P consecutive frames of one clip, one after the other.

    Only the log-mel frames are stored, on `device`. Vectors are built from them when they are indexed.

    Attributes:
        is_target: (vectors,) bool, on `device`: whether the vector belongs to the target domain.
        dimension: D.
    """

    def __init__(
        self, log_mels: LogMels, clips: Sequence[Clip], frames: int, frame_hop_length: int, device: torch.device
    ):
        n_mels = log_mels.frames.shape[1]
        self.dimension = frames * n_mels  # D
        values = torch.from_numpy(log_mels.frames).to(device).flatten()  # (sum of T, M) -> (sum of T · M,)
        self._windows = values.unfold(0, self.dimension, n_mels)  # -> (sum of T − P + 1, D), a view
        ends = np.cumsum(log_mels.lengths)
        starts = [
            np.arange(end - length, end - frames + 1, frame_hop_length)
            for length, end in zip(log_mels.lengths, ends, strict=True)
        ]
        self._starts = torch.from_numpy(np.concatenate(starts)).to(device)  # (vectors,) first frame of each vector
        self._counts = [len(clip_starts) for clip_starts in starts]  # K of each clip
        self.is_target = torch.from_numpy(np.repeat([clip.is_target for clip in clips], self._counts)).to(device)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        """The vectors with these indices: (B,) int64 -> (B, D) float32."""
        return self._windows.index_select(0, self._starts[indices])

    def per_clip(self) -> Iterator[torch.Tensor]:
        """Yield the vectors (K, D) of each clip."""
        for indices in torch.arange(len(self), device=self._starts.device).split(self._counts):
            yield self[indices]


def sum_by_frame(values: torch.Tensor, n_mels: int, n_frames: int, frame_hop_length: int) -> torch.Tensor:
    """Sum the values of a clip's vectors for each frame: (K, D) -> (T, M).

    A frame belongs to up to P vectors. A frame in no vector (with a large `frame_hop_length`) gets 0.

    Args:
        n_frames: T.
    """
    rows = values.reshape(len(values), -1, n_mels)  # (K, P, M)
    first, within = torch.arange(len(rows)) * frame_hop_length, torch.arange(rows.shape[1])
    frame = first[:, None] + within  # (K, P): frame index of each row
    return torch.zeros(n_frames, n_mels, dtype=values.dtype).index_add_(0, frame.flatten(), rows.flatten(0, 1))


def split_vectors(n: int, validation_split: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Split vectors at random into training and validation vectors, with NumPy's global generator.

    As in the published baseline, vectors are split, not clips.

    Returns:
        The indices of the training vectors and of the validation vectors.

    Raises:
        BaselineError: there are too few vectors.
    """
    from sklearn.model_selection import train_test_split

    try:
        train, valid = train_test_split(np.arange(n), test_size=validation_split)
    except ValueError as error:
        raise BaselineError(f"--validation_split {validation_split} of {n} vectors: too few. Add clips.") from error
    return torch.from_numpy(train), torch.from_numpy(valid)


def draw_pass(index: torch.Tensor, shuffle: bool) -> torch.Tensor:
    """`index` (n,) in the order in which a PyTorch `DataLoader` visits it in one epoch.

    Draws the same random numbers as a `DataLoader` from PyTorch's default generator: a base seed for the workers (even
    without workers), then a seed for the permutation if `shuffle` is true.
    """
    torch.empty((), dtype=torch.int64).random_()
    if not shuffle:
        return index
    seed = int(torch.empty((), dtype=torch.int64).random_())
    return index[torch.randperm(len(index), generator=torch.Generator().manual_seed(seed)).to(index.device)]


def draw_batches(index: torch.Tensor, batch_size: int, shuffle: bool) -> list[torch.Tensor]:
    """The batches of one epoch, (B,) vector indices each, in the order of a PyTorch `DataLoader`; see draw_pass."""
    return list(draw_pass(index, shuffle).split(batch_size))
