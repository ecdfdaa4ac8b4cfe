"""A random order of many things, of which only a few places are asked for at a time."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

_ROUNDS = 24  # even, so that the digits end where they began; at 12 some orders of six things are rarer than others


def shuffled(key: PRNGKeyArray, places: Int[Array, " size"], n: int) -> Int[Array, " size"]:
    """What stands at some places of a random order of `range(n)`, at a cost that does not grow with n.

    A Feistel cipher on the two digits of a place, repeated where it leads beyond n (Black and Rogaway, 2002, "Ciphers
    with arbitrary finite domains", section 4).

    Args:
        key: Of the order.
        places: Which of its places, from 0.
        n: How many there are, below 2^31.
    """
    rows = math.isqrt(n - 1) + 1
    columns = math.ceil(n / rows)
    salts = jax.random.bits(key, (_ROUNDS,), jnp.uint32)

    def enciphered(place: UInt32[Array, " size"]) -> UInt32[Array, " size"]:
        left, right = place // columns, place % columns
        for number in range(_ROUNDS):
            size = (rows, columns)[number % 2]
            left, right = right, (left + _mixed(right + salts[number]) % size) % size
        return left * columns + right

    def again(found: UInt32[Array, " size"]) -> UInt32[Array, " size"]:
        return jnp.where(found < n, found, enciphered(found % (rows * columns)))

    begun = places.astype(jnp.uint32) + rows * columns  # beyond n, so that all are enciphered once
    found = jax.lax.while_loop(lambda found: jnp.any(found >= n), again, begun)
    return found.astype(places.dtype)


def _mixed(bits: UInt32[Array, " size"]) -> UInt32[Array, " size"]:
    """Every bit of the result depends on all bits, by the last steps of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return bits ^ (bits >> 16)
