"""Against the numbers of the paper authors' own code."""

import pathlib

import numpy as np
import optax
import pytest

import layerflow as lf

FOLDER = pathlib.Path(__file__).parent / "reference"


class Reference:
    """One file of reference numbers, flattened to a list of cells."""

    def __init__(self, name):
        self.data = dict(np.load(FOLDER / f"{name}.npz"))
        grid = len(self.data["lam"])
        flat = lambda name: self.data[name].reshape(grid * grid, *self.data[name].shape[2:])
        self.w1, self.w2 = flat("W1_init"), flat("W2_init")
        self.kernel_distance, self.loss = flat("kernel_distance"), flat("final_loss")
        self.w1_final, self.w2_final = flat("W1_final"), flat("W2_final")
        self.downscale = np.tile(self.data["target_downscale"], grid)
        self.task = lf.Samples(self.data["X"].T, self.data["Y"].T)

    def solve(self, method, cells=slice(None)):
        """Diagram of the chosen cells with the authors' starts."""

        def cell(w1, w2, downscale):
            return lf.Problem(lf.LinearNetwork((w1, w2)), self.task.rescale(target=1 / downscale))

        values = {"w1": self.w1[cells], "w2": self.w2[cells], "downscale": self.downscale[cells]}
        return lf.sweep(cell, {"cell": lf.paired(values)}, method=method, observe=(lf.kernel_distance, lf.loss, final))


def final(network, problem):  # noqa: ARG001
    return dict(zip(("w1", "w2"), network.weights, strict=True))


@pytest.fixture(scope="module", params=["fig6a_2x2x2", "fig6b_20x20x2"])
def reference(request):
    return Reference(request.param)


def test_descent_gives_the_numbers_of_the_authors_code(reference):
    """1e-9 as both do the same arithmetic, in another order."""
    steps = int(reference.data["steps"])
    diagram = reference.solve(lf.Descent(optax.sgd, learning_rate=0.01, steps=steps))

    np.testing.assert_allclose(diagram.kernel_distance, reference.kernel_distance, rtol=0, atol=1e-9)
    np.testing.assert_allclose(diagram.loss, reference.loss, rtol=0, atol=1e-9)
    np.testing.assert_allclose(diagram.final_w1, reference.w1_final, rtol=0, atol=1e-9)
    np.testing.assert_allclose(diagram.final_w2, reference.w2_final, rtol=0, atol=1e-9)


def test_descent_tends_to_flow_as_its_rate_falls(reference):
    """Descent is Euler's method for the flow, so its error falls with the rate."""
    cells, t1 = slice(0, None, 13), 2.0
    flow = reference.solve(lf.Flow(t1=t1, rtol=1e-10), cells)
    error = {
        rate: np.abs(
            reference.solve(lf.Descent(optax.sgd, learning_rate=rate, steps=round(t1 / rate)), cells).kernel_distance
            - flow.kernel_distance
        ).max()
        for rate in (1e-2, 1e-4)
    }

    # First order: a hundredth of the rate is a hundredth of the error, to a factor for the remainder.
    assert 50 * error[1e-4] < error[1e-2]
