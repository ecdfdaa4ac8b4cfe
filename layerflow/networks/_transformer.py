"""A transformer of one layer, read at its last token."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from layerflow.base._checks import check_counts, check_key, real_array
from layerflow.networks._fields import constant


class Transformer(eqx.Module):
    """A decoder of one layer, attention and an MLP of one hidden layer, read at its last token.

    With tokens x_i as one-hot vectors, and s the residual stream at the last of them,

        h_i  = embedding @ x_i + positions_i,
        a    = softmax_i(query h_last . key h_i / sqrt(head)),    of every head,
        s    = h_last + sum_heads output @ sum_i a_i (value @ h_i),
        f(x) = output_scale * unembedding @ (s + mlp_out @ relu(mlp_in @ s + mlp_bias)),

    without layer norms, as in the studies of grokking. Nothing reads the other tokens' streams.

    Attributes:
        embedding: Of tokens, shape (width, vocabulary).
        positions: Added to each token, shape (tokens, width).
        query, key, value: Of every head, shape (heads, head, width).
        output: Back from every head, shape (heads, width, head).
        mlp_in, mlp_bias, mlp_out: Of shapes (hid, width), (hid,) and (width, hid).
        unembedding: Of shape (out, width).
        output_scale: A constant factor; training does not move it.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> network = lf.Transformer.lecun(jax.random.key(0), tokens=3, vocabulary=8, out=7, width=16, heads=4, hid=32)
        >>> network(jnp.eye(8)[jnp.array([2, 5, 7])]).shape
        (7,)

    References:
        Power et al. (2022), arXiv:2201.02177; Nanda et al. (2023), arXiv:2301.05217, for the form.
    """

    embedding: Float[Array, "width vocabulary"]
    positions: Float[Array, "tokens width"]
    query: Float[Array, "heads head width"]
    key: Float[Array, "heads head width"]
    value: Float[Array, "heads head width"]
    output: Float[Array, "heads width head"]
    mlp_in: Float[Array, "hid width"]
    mlp_bias: Float[Array, " hid"]
    mlp_out: Float[Array, "width hid"]
    unembedding: Float[Array, "out width"]
    output_scale: float | Float[Array, ""] = constant(default=1.0)

    @classmethod
    def lecun(
        cls,
        key: PRNGKeyArray,
        *,
        tokens: int,
        vocabulary: int,
        out: int,
        width: int = 128,
        heads: int = 4,
        hid: int = 512,
        gain: ArrayLike = 1.0,
        output_scale: ArrayLike = 1.0,
    ) -> "Transformer":
        """Draw weights from N(0, gain^2 / fan_in), with embeddings from N(0, gain^2 / width) and no bias yet.

        Args:
            key: Source of the weights.
            tokens: Length of the input.
            vocabulary: How many different tokens there are.
            out: Outputs.
            width: Of the residual stream, a multiple of `heads`.
            heads: Of attention.
            hid: Width of the MLP's hidden layer.
            gain: Of all weights, shape ().
            output_scale: A constant factor.

        Raises:
            ValueError: If a size is below 1 or `heads` does not divide `width`.
        """
        check_key(key)
        check_counts(tokens=tokens, vocabulary=vocabulary, out=out, width=width, heads=heads, hid=hid)
        if width % heads:
            raise ValueError(
                f"The heads share the residual stream evenly, so `heads` needs to divide `width`, but {heads} does not "
                f"divide {width}."
            )
        gain, head = real_array(gain, "gain"), width // heads
        keys = iter(jax.random.split(key, 9))
        draw = lambda *shape, fan_in: gain / fan_in**0.5 * jax.random.normal(next(keys), shape, gain.dtype)
        return cls(
            embedding=draw(width, vocabulary, fan_in=width),
            positions=draw(tokens, width, fan_in=width),
            query=draw(heads, head, width, fan_in=width),
            key=draw(heads, head, width, fan_in=width),
            value=draw(heads, head, width, fan_in=width),
            output=draw(heads, width, head, fan_in=width),
            mlp_in=draw(hid, width, fan_in=width),
            mlp_bias=jnp.zeros(hid, gain.dtype),
            mlp_out=draw(width, hid, fan_in=hid),
            unembedding=draw(out, width, fan_in=width),
            output_scale=output_scale if isinstance(output_scale, float) else real_array(output_scale, "output_scale"),
        )

    def features(self, x: Float[Array, "tokens vocabulary"]) -> Float[Array, " width"]:
        """The residual stream at the last token, which the unembedding reads."""
        needed = (self.positions.shape[0], self.embedding.shape[1])
        if x.shape != needed:
            raise ValueError(
                f"A Transformer reads {needed[0]} one-hot tokens, shape {needed}, as lf.modular_arithmetic(..., "
                f'form="tokens") gives them, but the shape is {x.shape}.'
            )
        stream = x @ self.embedding.T + self.positions
        last = stream[-1]
        keys, values = (jnp.einsum("hdw,tw->htd", part, stream) for part in (self.key, self.value))
        attention = jax.nn.softmax(jnp.einsum("htd,hd->ht", keys, self.query @ last) / keys.shape[-1] ** 0.5, axis=1)
        last = last + jnp.einsum("hwd,htd,ht->w", self.output, values, attention)
        return last + self.mlp_out @ jax.nn.relu(self.mlp_in @ last + self.mlp_bias)

    @property
    def classifier(self) -> Float[Array, "out width"]:
        """The unembedding, output scale included: outputs are classifier @ features."""
        return jnp.asarray(self.output_scale, self.unembedding.dtype) * self.unembedding

    def __call__(self, x: Float[Array, "tokens vocabulary"]) -> Float[Array, " out"]:
        """The output at the last token."""
        output = self.unembedding @ self.features(x)
        return jnp.asarray(self.output_scale, output.dtype) * output
