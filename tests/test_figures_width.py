"""Claims of the figure width: random starts of any width in few units, and lines that fail where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow.figures import _width

slow = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def width(quick_figure):
    return quick_figure("width")


def grams(first, second):
    """All products of layers over hidden units, which decide the flow of the map."""
    both = np.concatenate([first, second.T], axis=1)
    return both.T @ both


@pytest.mark.parametrize("width", [3, 40])
def test_starts_in_the_span_have_the_moments_of_random_layers(width):
    """Of 4000 draws; the mean of a Gram matrix of width w is w I, its variances w and on the diagonal 2 w (Wishart)."""
    keys = jax.random.split(jax.random.key(0), 4000)
    start = jax.vmap(lambda key: _width.random_start(key, jnp.asarray(float(width)), jnp.ones(()), 2))(keys)
    gram = np.stack([grams(*layers) for layers in zip(*map(np.asarray, start.weights), strict=True)])

    # Five standard errors of the mean, sqrt(2 w / 4000) at most; 15 % of the variance, whose error is 4 % or so.
    np.testing.assert_allclose(gram.mean(axis=0), width * np.eye(4), atol=5 * np.sqrt(2 * width / 4000))
    np.testing.assert_allclose(gram.var(axis=0), width * (1 + np.eye(4)), rtol=0.2)
    assert np.linalg.matrix_rank(gram[0], tol=1e-8) == min(width, 4)


@pytest.mark.slow
def test_a_wide_network_moves_as_its_triangle_does():
    """The map over time of 30 hidden units, and of the 6 that the QR decomposition of its layers leaves."""
    whole = lf.gaussian(jax.random.key(2), (3, 30, 3), std=0.2)
    triangle = jnp.linalg.qr(jnp.concatenate([whole.weights[0], whole.weights[1].T], axis=1))[1]
    task, ts = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0, 0.0]))), np.linspace(0, 2, 5)
    moved = [
        lf.solve(lf.Problem(start, task), lf.Flow(t1=2.0, rtol=1e-10), ts=ts, observe=_width.whole_map)
        for start in (whole, lf.LinearNetwork((triangle[:, :3], triangle[:, 3:].T)))
    ]
    np.testing.assert_allclose(*(path.observed["whole_map"] for path in moved), atol=1e-8)


class TestByTheQuickRecipe:
    """8 draws."""

    pytestmark = slow

    def test_the_map_is_that_of_the_closed_form_growth(self, width):
        """Of the widest networks, by a root mean square over draws of 2 % or so."""
        growth = np.exp(np.log(width.growth.sel(phase_width=3000)).mean("draw"))
        exact = np.sqrt(1 + (width.target / (3000 * width.variance)) ** 2)
        np.testing.assert_allclose(growth, exact.transpose(*growth.dims), rtol=0.1)

    def test_claims_fail_of_what_is_no_random_width(self, width):
        """Lines that move by the root of the width, and a deviation that does not fall."""
        lines = width.growth.copy(data=np.broadcast_to(width.growth[:1].values, width.growth.shape))
        broken = width.assign(growth=lines, deviation=width.deviation * 0 + 0.1 + 0.01 * width.seed)
        failed = [claim.words for claim in _width.claims(broken) if not claim.holds]
        for words in ("Deviation from the closed form as a power", "K over target", "Power of the width"):
            assert any(found.startswith(words) for found in failed), words
