"""Features in memory, for tests of the regression on them."""

import numpy as np
from torch import Tensor


class TensorRows:
    """``ridge.regression.Rows`` of a tensor ``[N, width]``."""

    def __init__(self, features: Tensor) -> None:
        self.features, self.width = features, features.shape[1]

    def __len__(self) -> int:
        return len(self.features)

    def read(self, start: int, stop: int) -> Tensor:
        return self.features[start:stop]

    def select(self, indices: np.ndarray) -> "TensorRows":
        return TensorRows(self.features[indices])
