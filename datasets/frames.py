"""Log-mel frames → vectors, split, passes.

P: frames of a vector, M: mel bands, D = P * M, T: frames of a clip, K: vectors of a clip, B: vectors of a batch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from config import BaselineError
from datasets.clips import Clip
from datasets.feature_cache import LogMels


class Vectors:
    """The vectors of some clips: each is P consecutive frames of one clip, frame by frame.

    The log-mel frames are held once, on `device`; vectors are gathered from them.

    Attributes:
        is_target: (vectors,) bool, on `device`: whether the vector's clip is of the target domain.
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
        """The vectors with these numbers: (B,) int64 -> (B, D) float32."""
        return self._windows.index_select(0, self._starts[indices])

    def per_clip(self) -> Iterator[torch.Tensor]:
        """The vectors of one clip after the other, (K, D) each."""
        for indices in torch.arange(len(self), device=self._starts.device).split(self._counts):
            yield self[indices]


def sum_by_frame(values: torch.Tensor, n_mels: int, n_frames: int, frame_hop_length: int) -> torch.Tensor:
    """The sum over a clip's vectors of the values at each of its frames: (K, D) -> (T, M).

    A frame is in up to P vectors. A frame in no vector (large `frame_hop_length`) has 0.

    Args:
        n_frames: T.
    """
    rows = values.reshape(len(values), -1, n_mels)  # (K, P, M)
    first, within = torch.arange(len(rows)) * frame_hop_length, torch.arange(rows.shape[1])
    frame = first[:, None] + within  # (K, P): the frame of each row
    return torch.zeros(n_frames, n_mels, dtype=values.dtype).index_add_(0, frame.flatten(), rows.flatten(0, 1))


def split_vectors(n: int, validation_split: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the training and of the validation vectors, drawn from NumPy's global generator.

    The vectors are split, not the clips, as in the published baseline.

    Raises:
        BaselineError: there are too few.
    """
    from sklearn.model_selection import train_test_split

    try:
        train, valid = train_test_split(np.arange(n), test_size=validation_split)
    except ValueError as error:
        raise BaselineError(f"--validation_split {validation_split} of {n} vectors: too few. Add clips.") from error
    return torch.from_numpy(train), torch.from_numpy(valid)


def draw_pass(index: torch.Tensor, shuffle: bool) -> torch.Tensor:
    """The vectors of `index` in the order in which a pass of a PyTorch `DataLoader` visits them: (n,) int64.

    Draws from PyTorch's default generator what a `DataLoader` draws: a seed for its workers each pass (there are no
    workers), and another one for the permutation if the pass is shuffled.
    """
    torch.empty((), dtype=torch.int64).random_()
    if not shuffle:
        return index
    seed = int(torch.empty((), dtype=torch.int64).random_())
    return index[torch.randperm(len(index), generator=torch.Generator().manual_seed(seed)).to(index.device)]


def draw_batches(index: torch.Tensor, batch_size: int, shuffle: bool) -> list[torch.Tensor]:
    """The batches of one pass, (B,) numbers of vectors each, drawn as by a PyTorch `DataLoader`; see draw_pass."""
    return list(draw_pass(index, shuffle).split(batch_size))
