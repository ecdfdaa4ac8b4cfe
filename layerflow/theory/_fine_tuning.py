"""What pretraining and a fresh readout leave a diagonal network to begin with."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import together
from layerflow.theory._mirror import coordinate
from layerflow.theory._special import Alike, quotient


class FineTuned(eqx.Module):
    """A diagonal network with pretrained first layer and fresh readout."""

    a: Float[Array, "..."]
    b: Float[Array, "..."]

    @property
    def difference(self) -> Float[Array, "..."]:
        """C = a^2 - b^2, which fine-tuning keeps."""
        return (self.a - self.b) * (self.a + self.b)

    @property
    def coordinate(self) -> Float[Array, "..."]:
        """The mirror coordinate theta."""
        return coordinate(self.a, self.b)

    @property
    def strength(self) -> Float[Array, "..."]:
        """beta = a b."""
        return self.a * self.b


def fine_tuned(
    auxiliary: ArrayLike, readout: ArrayLike, *, factor: ArrayLike = 1.0, difference: ArrayLike = 0.0
) -> FineTuned:
    """The start of fine-tuning: a diagonal network that learnt an auxiliary task, with its readout replaced.

        a = factor * sqrt((C + sqrt(C^2 + 4 beta_aux^2)) / 2),    b = readout,

    as a b = beta_aux and a^2 - b^2 = C at the end of pretraining. So C afterwards is factor^2 |beta_aux| - readout^2
    for C = 0 before. `bregman_projection` of it is where fine-tuning ends: for a small readout the price of feature i
    is beta^2 / (2 |beta_aux,i|) while |beta| is far below |beta_aux,i|, which reuses features as they are, and |beta|
    (ln(4 |beta| / |beta_aux,i|) - 1) / 2 beyond, which chooses few of them. A smaller factor moves the border down.

    Args:
        auxiliary: beta_aux, what pretraining ended at; its sign does not matter.
        readout: b at the start of fine-tuning, small.
        factor: By which the pretrained layer is multiplied, after pretraining.
        difference: C of pretraining, of any sign; for C > 0 unused features keep a = sqrt(C).

    All shapes broadcast.

    Returns:
        Both layers, and from them `difference`, `coordinate` and `strength`.

    Raises:
        ValueError: If a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import fine_tuned
        >>> start = fine_tuned(jnp.array([1.0, -1.0, 0.0]), 0.01)
        >>> [f"{c:.4f}" for c in start.difference], [f"{beta:.4f}" for beta in start.strength]
        (['0.9999', '0.9999', '-0.0001'], ['0.0100', '0.0100', '0.0000'])

    References:
        Lippl, Lindsey (2023), arXiv:2310.02396; Azulay et al. (2021), arXiv:2102.09769.
    """
    return _fine_tuned(*together(auxiliary=auxiliary, readout=readout, factor=factor, difference=difference))


@jax.jit
def _fine_tuned(auxiliary: Alike, readout: Alike, factor: Alike, c: Alike) -> FineTuned:
    size = jnp.hypot(c, 2 * auxiliary)
    # (C + size) / 2, for C < 0 without the cancellation.
    square = jnp.where(c >= 0, 0.5 * (c + size), quotient(2 * auxiliary**2, size - c))
    return FineTuned(factor * safe_root(square), readout)
