"""Two-layer networks of one output with any set of connections, biases and skip connections."""

import operator
from collections.abc import Callable, Iterable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import real_array
from layerflow.networks._fields import constant

Connections = tuple[tuple[int, int], ...]


def _as_connections(connections: Iterable[Iterable[int]]) -> Connections:
    """Pairs of Python integers, or an error."""
    try:
        pairs = tuple((operator.index(i), operator.index(j)) for i, j in connections)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Argument `connections` lists pairs (input, hidden unit) of whole numbers, as in ((0, 0), (1, 0)), but it "
            f"is {connections!r}."
        ) from error
    if not pairs:
        raise ValueError("A LayerwiseNetwork needs at least one pair (input, hidden unit), but `connections` is empty.")
    if min(map(min, pairs)) < 0:
        raise ValueError(f"Inputs and hidden units count from 0, but `connections` has {min(pairs, key=min)}.")
    if len(set(pairs)) < len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        raise ValueError(f"A connection stands once in `connections`, but {twice} stands there {pairs.count(twice)}x.")
    return pairs


def _weights(name: str) -> Callable[[ArrayLike], Array]:
    """A converter to an array of floats."""
    return lambda value: real_array(value, name)


def _optional(name: str) -> Callable[[ArrayLike | None], Array | None]:
    """A converter to an array of floats that leaves None alone."""
    return lambda value: None if value is None else real_array(value, name)


class LayerwiseNetwork(eqx.Module):
    """The map x -> output_scale * (sum_{(i, j) in V} x_i a_ij b_j + skip . x + biases), Eq. 22, of one output.

    V is any set of connections from inputs i to hidden units j:

        x_i -> h_j one to one    DiagonalNetwork,        all pairs    LinearNetwork of widths (inp, hid, 1).

    Biases are connections from an input that is 1: into hidden unit j (`hidden_bias`), which the layer
    after multiplies as it does a_ij, and into the output (`bias`), which nothing multiplies; skip
    connections lead from x_i into the output. Gradient flow conserves, for every hidden unit,

        b_j^2 - sum_{i: (i, j) in V} a_ij^2 - hidden_bias_j^2.

    With biases the map is not linear but affine, and has no `matrix`; its task is Samples. Inputs may
    be any functions phi_i(x), as in all networks here: give the task of those.

    Attributes:
        connections: V as pairs (input, hidden unit), counted from 0; no array, it decides shapes.
        first: a_ij, one number per connection in their order, shape (connections,).
        last: b_j, shape (hid,).
        skip: Weights of the skip connections, shape (inp,); none if not given.
        hidden_bias: Biases of the hidden units, shape (hid,); none if not given.
        bias: Bias of the output, shape (); none if not given.
        output_scale: A constant factor; training does not move it.
        inp: Number of inputs; as many as `connections` speaks of if not given.

    Raises:
        ValueError: If `connections` is empty, holds a pair twice or what is no pair, or an array
            does not have the shape that it asks for.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> network = lf.LayerwiseNetwork(((0, 0), (1, 0), (1, 1)), jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, -1.0]))
        >>> network.strengths.tolist()
        [1.0, -1.0]

    References:
        Nam et al. (2025), arXiv:2502.21009, Eq. 22 and appendix J.3.
    """

    connections: Connections = eqx.field(static=True, converter=_as_connections)
    first: Float[Array, " n"] = eqx.field(converter=_weights("first"))
    last: Float[Array, " hid"] = eqx.field(converter=_weights("last"))
    skip: Float[Array, " inp"] | None = eqx.field(converter=_optional("skip"), default=None)
    hidden_bias: Float[Array, " hid"] | None = eqx.field(converter=_optional("hidden_bias"), default=None)
    bias: Float[Array, ""] | None = eqx.field(converter=_optional("bias"), default=None)
    output_scale: float | Float[Array, ""] = constant(default=1.0)
    inp: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        least = 1 + max(i for i, _ in self.connections)
        if self.inp is not None and self.inp < least:
            raise ValueError(
                f"Argument `inp` counts the inputs, and `connections` needs at least {least}, but it is {self.inp}."
            )
        inp = self.widths[0]
        hid = 1 + max(j for _, j in self.connections)
        for name, needed, of in (
            ("first", (len(self.connections),), "one weight per connection"),
            ("last", (hid,), "one weight per hidden unit that `connections` speaks of"),
            ("skip", (inp,), "one weight per input"),
            ("hidden_bias", (hid,), "one bias per hidden unit"),
            ("bias", (), "the one bias of the output"),
        ):
            array = getattr(self, name)
            if array is not None and array.shape != needed:
                raise ValueError(f"Argument `{name}` holds {of} and needs shape {needed}, but it has {array.shape}.")

    @property
    def widths(self) -> tuple[int, int, int]:
        """Number of inputs, of hidden units and of outputs."""
        inp = 1 + max(i for i, _ in self.connections) if self.inp is None else self.inp
        return (inp, self.last.shape[0], 1)

    @property
    def is_affine(self) -> bool:
        """Whether there are biases."""
        return self.hidden_bias is not None or self.bias is not None

    @property
    def strengths(self) -> Float[Array, " inp"]:
        """What each input is multiplied by, u_i = sum_j a_ij b_j + skip_i, output scale included."""
        i, j = np.asarray(self.connections).T
        through = jnp.zeros(self.widths[0], self.first.dtype).at[i].add(self.first * self.last[j])
        return self.output_scale * (through if self.skip is None else through + self.skip)

    @property
    def matrix(self) -> Float[Array, "1 inp"]:
        """The end-to-end matrix, the strengths as one row; a network with biases has none."""
        if self.is_affine:
            raise AttributeError("A LayerwiseNetwork with biases is affine, and has no end-to-end matrix.")
        return self.strengths[None, :]

    @property
    def squares_into_hidden(self) -> Float[Array, " hid"]:
        """Sum of the squares of all weights into each hidden unit, its bias included."""
        _, j = np.asarray(self.connections).T
        squares = jnp.zeros_like(self.last).at[j].add(self.first**2)
        return squares if self.hidden_bias is None else squares + self.hidden_bias**2

    @property
    def offset(self) -> Float[Array, ""]:
        """The output for the input 0: what the biases make."""
        through = jnp.zeros((), self.last.dtype) if self.hidden_bias is None else jnp.dot(self.hidden_bias, self.last)
        return self.output_scale * (through if self.bias is None else through + self.bias)

    def __call__(self, x: Float[Array, " inp"]) -> Float[Array, " 1"]:
        """The output for one input."""
        return (jnp.dot(self.strengths, x) + self.offset)[None]
