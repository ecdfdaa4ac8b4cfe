"""Multitask sparse parity: skills that exclude one another, of frequencies that follow a power law."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from layerflow.base._checks import check_counts, check_key
from layerflow.tasks._base import Task
from layerflow.tasks._teacher import power_law_modes


@dataclass(frozen=True)
class SparseParity:
    """Multitask sparse parity, whose skills a network has to learn from examples.

    An input is a one-hot vector of control bits, which name one of the skills, and then random skill
    bits. Skill k occurs with frequency p_k ~ k^(-exponent) and owns `per_skill` bits of its own,

        y = target * g_k(x),    g_k(x) = 2 parity(bits of skill k) - 1    on samples of skill k.

    Args:
        skills: How many.
        bits: Skill bits, 0 or 1, each with probability 1/2.
        per_skill: Bits that a skill owns; skill k (from 0) those from k * per_skill on.
        exponent: Of the power law, alpha + 1.
        target: S.

    Raises:
        ValueError: If a number is below 1, or there are not enough bits for all skills.

    Example:
        >>> import jax, layerflow as lf
        >>> parity = lf.SparseParity()
        >>> x, y = parity.draw(jax.random.key(0), 10)
        >>> x.shape, sorted(set(y.ravel().tolist()))
        ((10, 37), [-5.0, 5.0])
        >>> endless, by_skill = lf.Stream(parity.draw), parity.by_skill(jax.random.key(1), 100)

    References:
        Michaud et al. (2023), arXiv:2303.13506; Nam et al. (2024), arXiv:2404.17563.
    """

    skills: int = 5
    bits: int = 32
    per_skill: int = 3
    exponent: float = 1.6
    target: float = 5.0

    def __post_init__(self) -> None:
        check_counts(skills=self.skills, bits=self.bits, per_skill=self.per_skill)
        if self.skills * self.per_skill > self.bits:
            raise ValueError(
                f"Every skill owns bits of its own, so {self.skills} skills of {self.per_skill} bits need `bits` of at "
                f"least {self.skills * self.per_skill}, but it is {self.bits}. Take fewer `skills` or more `bits`."
            )

    @property
    def inp(self) -> int:
        """Width of an input: control bits and skill bits."""
        return self.skills + self.bits

    @property
    def frequency(self) -> Float[Array, " skill"]:
        """p_k of every skill; they sum to 1."""
        return power_law_modes(self.skills, exponent=self.exponent).variance

    def draw(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n inp"], Float[Array, "n 1"]]:
        """Inputs and targets of `n` samples, as `Stream` draws them."""
        check_key(key)
        skill_key, bit_key = jax.random.split(key)
        skill = jax.random.choice(skill_key, self.skills, (n,), p=self.frequency)
        x, g = self._samples(bit_key, skill)
        return x, self.target * g[:, None]

    def by_skill(self, key: PRNGKeyArray, n: int) -> "SkillSamples":
        """A task of `n` samples of every skill, to measure `skill_strengths` on."""
        check_key(key)
        check_counts(n=n)
        x, g = self._samples(key, jnp.repeat(jnp.arange(self.skills), n))
        return SkillSamples(x.reshape(self.skills, n, -1), g.reshape(self.skills, n), self.frequency, self.target)

    def _samples(self, key: PRNGKeyArray, skill: Int[Array, " n"]) -> tuple[Float[Array, "n inp"], Float[Array, " n"]]:
        """Inputs of the given skills, and g of each."""
        dtype = jnp.result_type(float)
        # 32 bits from each random word: drawing bit by bit takes longer than training a small network on them.
        words = jax.random.bits(key, (skill.size, -(-self.bits // 32), 1), jnp.uint32)
        bits = ((words >> jnp.arange(32, dtype=jnp.uint32)[None, None, :]) & 1).astype(int)
        bits = bits.reshape(skill.size, -1)[:, : self.bits]
        owned = skill[:, None] * self.per_skill + jnp.arange(self.per_skill)[None, :]
        parity = jnp.sum(jnp.take_along_axis(bits, owned, axis=1), axis=1) % 2
        x = jnp.concatenate([jax.nn.one_hot(skill, self.skills, dtype=dtype), bits.astype(dtype)], axis=1)
        return x, (2 * parity - 1).astype(dtype)


class SkillSamples(Task):
    """Samples sorted by skill, with the value of the skill on each.

    The loss is that of the frequencies, L = sum_k p_k E_k (f(x) - S g_k(x))^2 / 2.

    Attributes:
        x: Inputs, shape (skill, n, inp).
        g: The skill on its own samples, 1 or -1, shape (skill, n).
        frequency: p_k, shape (skill,).
        target: S.
    """

    x: Float[Array, "skill n inp"]
    g: Float[Array, "skill n"]
    frequency: Float[Array, " skill"]
    target: float

    def __str__(self) -> str:
        """What the task is and its sizes, in a few words."""
        return f"{self.g.shape[0]} skills, {self.g.shape[1]} samples of each"

    def check(self, network: PyTree) -> None:
        """Raise unless `network` takes one input and gives one number."""
        output = jax.eval_shape(network, jax.ShapeDtypeStruct(self.x.shape[2:], self.x.dtype))
        if output.size != 1:
            raise ValueError(f"Skills ask for one output, but the network gives {output.shape}.")

    def outputs(self, network: PyTree) -> Float[Array, "skill n"]:
        """What the network makes of every sample."""
        return jax.vmap(jax.vmap(network))(self.x).reshape(self.g.shape)

    def loss(self, network: PyTree) -> Float[Array, ""]:
        """L = sum_k p_k E_k (f(x) - S g_k(x))^2 / 2."""
        return 0.5 * jnp.sum(self.frequency * jnp.mean((self.outputs(network) - self.target * self.g) ** 2, axis=1))
