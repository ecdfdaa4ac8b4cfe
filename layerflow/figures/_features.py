"""What Figures 7 and 9 share: three setups of the toy model, rich and lazy."""

from typing import NamedTuple

import numpy as np


class Setup(NamedTuple):
    """A network f(x) = (1/Z) sum_i b_i w_i . x whose weights start at +-scale, and the size of its target."""

    words: str
    width: int
    z: float
    scale: float
    target: float

    @property
    def weight_scale(self) -> float:
        """Sigma(0) = sum (|w_i|^2 + b_i^2) / 2Z."""
        return self.width * self.scale**2 / self.z

    @property
    def unit(self) -> float:
        """The time scale Z / r, r^2 = S^2 + Sigma(0)^2, at f(0) = 0."""
        return self.z / float(np.hypot(self.target, self.weight_scale))


SETUPS = {
    "rich": Setup("rich: small weights", 2, 1.0, 0.1, 10.0),
    "downscaled": Setup("lazy: small target", 2, 1.0, 1.0, 0.1),
    "ntk": Setup("lazy: NTK, 1000 units", 1000, float(np.sqrt(1000.0)), 1.0, 1.0),
}
