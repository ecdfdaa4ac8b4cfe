"""Multilayer perceptrons: linear networks with a non-linearity between the layers."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from layerflow.base._checks import check_key, real_array
from layerflow.base._keys import normals
from layerflow.networks._fields import as_layers, constant
from layerflow.networks._linear import check_layers
from layerflow.networks._widths import checked_widths, per_layer

Biases = tuple[Float[Array, " _out"] | None, ...]


def _as_biases(biases: Sequence[ArrayLike | None] | None) -> Biases | None:
    return None if biases is None else tuple(None if b is None else real_array(b, "biases") for b in biases)


class MLP(eqx.Module):
    """The network x -> output_scale * (w[-1] @ phi(... phi(w[0] @ x + b[0]) ...) + b[-1]) of any depth.

    Between the layers acts

        phi(z) = slope * z + (1 - slope) * activation(z),

    so that `slope` leads from the activation (0) to a linear network (1) and is an array, an axis of a
    sweep. With ReLU that is the leaky ReLU of this slope.

    Attributes:
        weights: One matrix per layer, first layer first, of shapes (hid, inp), ..., (out, hid).
        biases: One vector per layer, of shapes (hid,), ..., (out,), or None where there is none;
            None for no biases at all.
        activation: Function of one array, elementwise.
        slope: One number for all layers, in [0, 1] as a rule; a constant, which training does not move.
        output_scale: A constant factor; training does not move it.

    Raises:
        TypeError: If `activation` is no function, or `slope` no number.
        ValueError: If there is no layer, layers do not fit one another, biases do not fit them, or there is
            more than one slope.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> network = lf.MLP.lecun(jax.random.key(0), (3, 50, 50, 2), activation=jnp.tanh)
        >>> network(jnp.ones(3)).shape, network.features(jnp.ones(3)).shape
        ((2,), (50,))
    """

    weights: tuple[Float[Array, "_out _inp"], ...] = eqx.field(converter=as_layers)
    biases: Biases | None = eqx.field(converter=_as_biases, default=None)
    activation: Callable[[Array], Array] = eqx.field(static=True, default=jax.nn.relu)
    slope: float | Float[Array, ""] = constant(default=0.0)
    output_scale: float | Float[Array, ""] = constant(default=1.0)

    def __check_init__(self) -> None:
        check_layers(self.weights, "an MLP")
        if not callable(self.activation):
            raise TypeError(
                f"Argument `activation` needs a function such as jnp.tanh or jax.nn.relu, but it is "
                f"{self.activation!r}."
            )
        slope = real_array(self.slope, "slope")
        if slope.shape != ():
            raise ValueError(f"Argument `slope` is one number for all layers, but it has shape {slope.shape}.")
        if self.biases is None:
            return
        if len(self.biases) != len(self.weights):
            raise ValueError(
                f"Argument `biases` holds one vector, or None, per layer, so {len(self.weights)}, but it holds "
                f"{len(self.biases)}."
            )
        for number, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            if b is not None and b.shape != w.shape[:1]:
                raise ValueError(
                    f"Biases need to fit: `weights[{number}]` has shape {w.shape} and gives {w.shape[0]} values, but "
                    f"`biases[{number}]` has shape {b.shape}."
                )

    @classmethod
    def gaussian(
        cls,
        key: PRNGKeyArray,
        widths: Sequence[int],
        *,
        std: ArrayLike | Sequence[ArrayLike],
        bias: bool = True,
        **kind: Any,
    ) -> "MLP":
        """Draw weights and biases from N(0, std^2).

        Args:
            key: Source of the weights.
            widths: Width of every layer of units, input first.
            std: Standard deviation, one for all layers or one per layer.
            bias: Whether there are biases.
            **kind: `activation`, `slope`, `output_scale`.

        Raises:
            ValueError: If there are fewer than two widths, a width is below 1, or `std` does not hold
                one number per layer.
        """
        check_key(key)
        widths = checked_widths(widths)
        stds = per_layer(std, len(widths) - 1, "std")
        return cls._drawn(key, widths, stds, jax.random.normal, stds if bias else None, kind)

    @classmethod
    def lecun(
        cls,
        key: PRNGKeyArray,
        widths: Sequence[int],
        *,
        gain: ArrayLike | Sequence[ArrayLike] = 1.0,
        bias: bool = True,
        **kind: Any,
    ) -> "MLP":
        """Draw weights from N(0, gain^2 / fan_in), and biases uniformly within 1 / sqrt(fan_in).

        The biases, those of PyTorch's layers, do not scale with the gain.

        Args:
            key: Source of the weights.
            widths: Width of every layer of units, input first.
            gain: Of the weights, one for all layers or one per layer.
            bias: Whether there are biases.
            **kind: `activation`, `slope`, `output_scale`.

        Raises:
            ValueError: If there are fewer than two widths, a width is below 1, or `gain` does not hold
                one number per layer.
        """
        check_key(key)
        widths = checked_widths(widths)
        gains = per_layer(gain, len(widths) - 1, "gain")
        unit = 1 / jnp.sqrt(jnp.asarray(widths[:-1], gains.dtype))
        uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -1.0, 1.0)
        return cls._drawn(key, widths, gains * unit, uniform, unit if bias else None, kind)

    @classmethod
    def _drawn(
        cls,
        key: PRNGKeyArray,
        widths: tuple[int, ...],
        stds: Float[Array, " layers"],
        draw_bias: Callable[..., Array],
        bias_sizes: Float[Array, " layers"] | None,
        kind: dict[str, Any],
    ) -> "MLP":
        """One Gaussian matrix, and one vector by `draw_bias`, per layer."""
        keys = jax.random.split(key, (len(widths) - 1, 2))
        shapes = list(zip(widths[1:], widths[:-1], strict=True))
        weights = [s * w for s, w in zip(stds, normals(keys[:, 0], shapes, stds.dtype), strict=True)]
        biases = None
        if bias_sizes is not None:
            parts = zip(keys[:, 1], shapes, bias_sizes, strict=True)
            biases = tuple(size * draw_bias(k, shape[:1], size.dtype) for k, shape, size in parts)
        return cls(tuple(weights), biases, **kind)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every layer of units, input first."""
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))

    def features(self, x: Float[Array, " inp"]) -> Float[Array, " hid"]:
        """The last hidden layer, which the last layer of weights reads, for one input."""
        for number in range(len(self.weights) - 1):
            x = self._activated(self._layer(number, x))
        return x

    @property
    def classifier(self) -> Float[Array, "out hid"]:
        """The last layer of weights, output scale included: outputs are classifier @ features + bias."""
        return jnp.asarray(self.output_scale, self.weights[-1].dtype) * self.weights[-1]

    def __call__(self, x: Float[Array, " inp"]) -> Float[Array, " out"]:
        """The output for one input."""
        output = self._layer(len(self.weights) - 1, self.features(x))
        return jnp.asarray(self.output_scale, output.dtype) * output

    def _activated(self, z: Float[Array, " hid"]) -> Float[Array, " hid"]:
        """phi(z)."""
        if isinstance(self.slope, float) and self.slope in (0, 1):  # nothing of the other in the program
            return z if self.slope else self.activation(z)
        slope = jnp.asarray(self.slope, z.dtype)
        return slope * z + (1 - slope) * self.activation(z)

    def _layer(self, number: int, x: Float[Array, " _inp"]) -> Float[Array, " _out"]:
        """What one layer makes of its input, before the activation."""
        z = self.weights[number] @ x
        bias = None if self.biases is None else self.biases[number]
        return z if bias is None else z + bias
