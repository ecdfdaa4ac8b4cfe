"""Bad input: what was needed, what came, and how to mend it - at the call, before anything runs."""

import shutil
import types
import warnings

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import layerflow as lf
from layerflow.engine._machine import check_float64

pytestmark = pytest.mark.usefixtures("as_users_see_it")


TASK = lf.Moments.whitened(yx=jnp.eye(2))
NETWORK = lf.LinearNetwork((0.1 * jnp.eye(2), 0.1 * jnp.eye(2)))
PROBLEM = lf.Problem(NETWORK, TASK)
FLOW = lf.Flow(t1=1.0)
KEY = jax.random.key(0)
ONE = jnp.ones(1)
FIELD = xr.DataArray(np.subtract.outer(np.arange(4.0), np.arange(5.0)), dims=("lam", "scale"), name="loss")
ANY = ((0, 0), (2, 0), (1, 1), (2, 1), (0, 2))  # connections of three inputs and three hidden units


def cell(lam):
    return lf.Problem(lf.lambda_balanced(KEY, lam, 0.1, inp=2, hid=2, out=2), TASK)


def sweep(function=cell, axes=None, **kwargs):
    return lf.sweep(function, {"lam": [0.0, 1.0]} if axes is None else axes, **({"method": FLOW} | kwargs))


def wrong_shape(network, problem):  # noqa: ARG001
    return network.weights[0]


def by_width(width):
    return lf.Problem(lf.LinearNetwork((jnp.ones((width, 2)), jnp.ones((2, width)))), TASK)


def two_a(network, problem):
    return lf.loss(network, problem)


two_b = lambda network, problem: lf.loss(network, problem)
two_b.__name__ = "two_a"


class Many(lf.Task):
    def loss(self, network):
        return network.matrix


def single():
    weights = tuple(w.astype(jnp.float32) for w in NETWORK.weights)
    return lf.Problem(lf.LinearNetwork(weights), lf.Moments.whitened(yx=jnp.eye(2, dtype=jnp.float32)))


CASES = {
    "NaN on an axis": (
        lambda: sweep(axes={"lam": [0.0, np.nan]}),
        ValueError,
        r"`lam` needs finite values \(float64\), but holds nan at position 1",
    ),
    "infinity on an axis": (lambda: sweep(axes={"lam": [np.inf, 0.0]}), ValueError, r"`lam` needs finite values"),
    "empty axis": (lambda: sweep(axes={"lam": []}), ValueError, r"Axis `lam` is empty"),
    "axis of text": (lambda: sweep(axes={"lam": ["a"]}), TypeError, r"real numbers.*lf.static"),
    "complex axis": (lambda: sweep(axes={"lam": [1j]}), TypeError, r"real numbers, but its values have dtype complex"),
    "matrix axis": (lambda: sweep(axes={"lam": np.ones((2, 2))}), ValueError, r"vector of values.*lf.paired"),
    "ragged axis": (lambda: sweep(axes={"lam": [[1.0], [1.0, 2.0]]}), ValueError, r"Axis `lam` needs an array"),
    "axes no dict": (lambda: sweep(axes=[1.0]), TypeError, r"`axes` is a dict"),
    "axis that the cell does not take": (
        lambda: sweep(axes={"lam": [0.0], "scale": [1.0]}),
        TypeError,
        r"does not take `scale`; it takes `lam`",
    ),
    "argument without an axis": (
        lambda: sweep(lambda lam, scale: cell(lam)),
        TypeError,
        r"takes `scale`, but no axis gives it",
    ),
    "axis called key": (lambda: sweep(lambda key: cell(key), {"key": [1.0]}), TypeError, r"`key` is made by the sweep"),
    "axis called t": (lambda: sweep(lambda t: cell(t), {"t": [1.0]}), ValueError, r"name `t` belongs to the diagram"),
    "argument on two axes": (
        lambda: sweep(axes={"lam": [1.0], "both": lf.paired({"lam": [1.0]})}),
        TypeError,
        r"belongs to one axis",
    ),
    "paired lengths": (lambda: lf.paired({"a": [1.0], "b": [1.0, 2.0]}), ValueError, r"one length, but have"),
    "paired labels": (
        lambda: lf.paired({"a": [1.0]}, labels=["x", "y"]),
        ValueError,
        r"one label per position, 1, but 2",
    ),
    "static of nothing": (lambda: lf.static([]), ValueError, r"at least one value"),
    "seeds without key": (lambda: sweep(seeds=2), TypeError, r"takes no `key`"),
    "no seeds": (lambda: sweep(lambda key, lam: cell(lam), seeds=0), ValueError, r"positive whole number, not 0"),
    "argument called seed": (
        lambda: sweep(lambda lam, seed: cell(lam), {"case": lf.paired({"lam": [0.0], "seed": [1.0]})}),
        ValueError,
        r"name `seed` belongs to the diagram",
    ),
    "root that is no key": (lambda: sweep(root="three"), TypeError, r"`root` needs a key"),
    "no cell function": (
        lambda: lf.sweep(PROBLEM, {}, method=FLOW),
        TypeError,
        r"cell function is needed.*Problem came",
    ),
    "cell returns a dict": (
        lambda: sweep(lambda lam: {"lam": lam}),
        TypeError,
        r"return a lf.Problem.*returned a dict",
    ),
    "cell returns a network": (lambda: sweep(lambda lam: NETWORK), TypeError, r"returned a LinearNetwork"),
    "no method": (lambda: sweep(method=None), TypeError, r"needs lf.Flow.*missing"),
    "method of another kind": (lambda: lf.solve(PROBLEM, diffrax.Tsit5()), TypeError, r"but it is a Tsit5"),
    "sweep by a solver": (
        lambda: sweep(method=diffrax.Tsit5()),
        TypeError,
        r"`method` needs lf.Flow.*but it is a Tsit5",
    ),
    "problem of another kind": (
        lambda: lf.solve(NETWORK, FLOW),
        TypeError,
        r"A Problem is needed.*a LinearNetwork came",
    ),
    "two methods": (lambda: sweep(lambda lam: (cell(lam), FLOW)), TypeError, r"Leave one out"),
    "value used as a shape": (lambda: sweep(by_width, {"width": [2, 3]}), TypeError, r"lf.static"),
    "value used in an if": (
        lambda: sweep(lambda lam: cell(lam) if lam > 0 else PROBLEM),
        TypeError,
        r"jnp.where in place of `if`",
    ),
    "widths that do not fit the task": (
        lambda: lf.Problem(lf.gaussian(KEY, (3, 2)), TASK),
        ValueError,
        r"2 inputs and 2 outputs, but the network has 3 and 2",
    ),
    "layers that do not fit": (
        lambda: lf.LinearNetwork((jnp.ones((3, 2)), jnp.ones((2, 4)))),
        ValueError,
        r"gives 3 values, but `weights\[1\]` has shape \(2, 4\) and takes 4",
    ),
    "layer that is a vector": (
        lambda: lf.LinearNetwork((jnp.ones(3),)),
        ValueError,
        r"`weights\[0\]` has shape \(3,\)",
    ),
    "diagonal layers of two lengths": (
        lambda: lf.DiagonalNetwork((jnp.ones(3), jnp.ones(2))),
        ValueError,
        r"vectors of one length",
    ),
    "balance that cannot exist": (
        lambda: lf.lambda_balanced(KEY, 1.0, 1.0, inp=2, hid=3, out=2),
        ValueError,
        r"hid=3, out=2 has.*Take hid <= out=2, or lam <= 0",
    ),
    "balance that cannot exist in a sweep": (
        lambda: sweep(
            lambda lam: lf.Problem(
                lf.lambda_balanced(KEY, lam, 0.1, inp=3, hid=3, out=2), lf.Moments.whitened(yx=jnp.ones((2, 3)))
            ),
            {"lam": [-1.0, 0.0, 1.0]},
        ),
        ValueError,
        r"Take hid <= out=2.*First at lam=1.0, in 1 of 3 cells",
    ),
    "strengths of another length": (
        lambda: lf.lambda_balanced(KEY, 0.0, jnp.ones(2), inp=3, hid=3, out=3),
        ValueError,
        r"needs shape \(3,\), but it has shape \(2,\)",
    ),
    "negative strengths": (
        lambda: lf.lambda_balanced(KEY, 0.0, -1.0, inp=2, hid=2, out=2),
        ValueError,
        r"not negative",
    ),
    "many imbalances at once": (
        lambda: lf.lambda_balanced(KEY, jnp.ones(3), 1.0, inp=2, hid=2, out=2),
        ValueError,
        r"`lam` is one number",
    ),
    "width of zero": (lambda: lf.lambda_balanced(KEY, 0.0, 1.0, inp=2, hid=0, out=2), ValueError, r"`hid` is a width"),
    "std of another length": (
        lambda: lf.gaussian(KEY, (2, 3, 2), std=(0.1, 0.2, 0.3)),
        ValueError,
        r"needs shape \(2,\)",
    ),
    "std of another name": (
        lambda: lf.gaussian(KEY, (2, 3, 2), std="he"),
        ValueError,
        r'"lecun" or "ntk", but it is "he"',
    ),
    "one width": (lambda: lf.gaussian(KEY, (2,)), ValueError, r"at least two"),
    "odd hidden width": (lambda: lf.symmetrised(KEY, (2, 3, 2), std=1.0), ValueError, r"even hidden widths"),
    "negative t1": (lambda: lf.Flow(t1=-1.0), ValueError, r"`t1` is gradient-flow time and needs to be positive"),
    "t1 that is NaN": (lambda: lf.Flow(t1=np.nan), ValueError, r"positive and finite, but it is nan"),
    "negative t1 in a sweep": (
        lambda: sweep(lambda lam: (cell(0.0), lf.Flow(t1=lam)), {"lam": [1.0, -1.0]}, method=None),
        ValueError,
        r"`t1`.*First at lam=-1.0",
    ),
    "tolerance of zero": (lambda: lf.Flow(t1=1.0, rtol=0.0), ValueError, r"`rtol` is a relative error"),
    "solver of another kind": (lambda: lf.Flow(t1=1.0, solver="tsit5"), TypeError, r"needs a diffrax solver.*str"),
    "solver without error estimate": (
        lambda: lf.Flow(t1=1.0, solver=diffrax.Euler()),
        TypeError,
        r"Euler does not estimate its error",
    ),
    "solver of split equations": (
        lambda: lf.Flow(t1=1.0, solver=diffrax.SemiImplicitEuler()),
        TypeError,
        r"SemiImplicitEuler needs a split equation",
    ),
    "fixed steps without size": (
        lambda: lf.Flow(t1=1.0, controller=diffrax.ConstantStepSize()),
        TypeError,
        r"give `dt0`",
    ),
    "two sources of tolerance": (
        lambda: lf.Flow(t1=1.0, rtol=1e-3, controller=diffrax.PIDController(rtol=1e-3, atol=1e-6)),
        TypeError,
        r"belong to the controller",
    ),
    "until of another name": (lambda: lf.Flow(t1=1.0, until="done"), ValueError, r'"converged", a loss'),
    "converged with decay": (
        lambda: lf.solve(lf.Problem(NETWORK, TASK, decay=0.1), lf.Flow(t1=1.0, until="converged")),
        ValueError,
        r"With weight decay the least loss is not known",
    ),
    "converged without a known minimum": (
        lambda: lf.solve(
            lf.Problem(eqx.nn.MLP(2, 2, 4, 1, key=KEY), lf.Samples(jnp.ones((3, 2)), jnp.ones((3, 2)))),
            lf.Flow(t1=1.0, until="converged"),
        ),
        TypeError,
        r"No least loss is known for MLP on Samples",
    ),
    "result of a factory": (lambda: lf.Descent(optax.sgd(0.1), steps=3), TypeError, r"not optax.sgd\(0.01\)"),
    "unknown hyperparameter": (
        lambda: lf.Descent(optax.sgd, steps=3, rate=0.1),
        TypeError,
        r"It takes learning_rate.* but rate came",
    ),
    "schedule of an axis value": (
        lambda: sweep(
            lambda lam: (
                cell(0.0),
                lf.Descent(optax.sgd, steps=3, learning_rate=optax.exponential_decay(lam, 5, 0.5)),
            ),
            {"lam": [0.1, 0.2]},
            method=None,
        ),
        TypeError,
        r"`learning_rate` is a function that closes over a value of an axis.*lf.Descent\(decayed",
    ),
    "given steps that end elsewhere": (
        lambda: lf.Flow(t1=2.0, controller=diffrax.StepTo(ts=np.array([0.0, 0.5, 1.0]))),
        ValueError,
        r"StepTo needs times from 0 to t1=2, but they run from 0 to 1",
    ),
    "no steps": (
        lambda: lf.Descent(optax.sgd, steps=0, learning_rate=0.1),
        ValueError,
        r"`steps` needs to be positive",
    ),
    "half a step": (
        lambda: lf.Descent(optax.sgd, steps=1.5, learning_rate=0.1),
        TypeError,
        r"whole number, but it is 1.5",
    ),
    "batch of moments": (
        lambda: lf.solve(PROBLEM, lf.Descent(optax.sgd, steps=3, batch=2, learning_rate=0.1)),
        TypeError,
        r"Mini-batches need.*Samples",
    ),
    "batch larger than the sample": (
        lambda: lf.solve(
            lf.Problem(NETWORK, lf.Samples(jnp.ones((3, 2)), jnp.ones((3, 2)))),
            lf.Descent(optax.sgd, steps=3, batch=5, learning_rate=0.1),
        ),
        ValueError,
        r"batch of 5 needs at least as many samples, but the task holds 3",
    ),
    "unsorted ts": (
        lambda: lf.solve(PROBLEM, FLOW, ts=[0.0, 1.0, 0.5]),
        ValueError,
        r"strictly increasing times.*jnp.unique",
    ),
    "ts beyond t1": (lambda: sweep(ts=[0.0, 2.0]), ValueError, r"t1=1, but reaches 2"),
    "ts that is NaN": (lambda: sweep(ts=[0.0, np.nan]), ValueError, r"not finite"),
    "empty ts": (lambda: sweep(ts=[]), ValueError, r"at least one time"),
    "half a step in ts": (
        lambda: sweep(ts=[0.5], method=lf.Descent(optax.sgd, steps=3, learning_rate=0.1)),
        ValueError,
        r"counts steps",
    ),
    "network without matrix under moments": (
        lambda: lf.Problem(eqx.nn.MLP(2, 2, 4, 1, key=KEY), TASK),
        TypeError,
        r"property `matrix`.*MLP has none",
    ),
    "task that is an array": (lambda: lf.Problem(NETWORK, jnp.ones(3)), TypeError, r"`task` needs a task"),
    "observable whose shape varies": (
        lambda: sweep(by_width, {"width": lf.static([2, 3])}, observe=wrong_shape),
        ValueError,
        r"`wrong_shape` has shape \(2, 2\) at width=2 and \(3, 2\) at width=3",
    ),
    "two observables of one name": (
        lambda: sweep(observe=(two_a, two_b)),
        ValueError,
        r"`observe` holds two functions called `two_a`",
    ),
    "observable named like an axis": (lambda: sweep(observe={"lam": lf.loss}), ValueError, r"has the name of an axis"),
    "observable that returns text": (
        lambda: sweep(observe={"words": lambda n, p: "lazy"}),
        TypeError,
        r"but `words` is a str",
    ),
    "observable that is none": (
        lambda: sweep(observe=[3]),
        TypeError,
        r"`observe` needs functions of \(network, problem\), .* but `int` is of type int",
    ),
    "observable without a name": (lambda: sweep(observe=lambda n, p: 0.0), ValueError, r"A lambda has no name"),
    "observable in NumPy": (
        lambda: sweep(observe={"size": lambda n, p: np.linalg.norm(n.matrix)}),
        TypeError,
        r"`size` hands a JAX array to NumPy.*Use jax.numpy",
    ),
    "cell in NumPy": (
        lambda: sweep(lambda lam: cell(np.sqrt(lam))),
        TypeError,
        r"cell function hands a traced value to NumPy",
    ),
    "loss of many numbers": (
        lambda: lf.solve(lf.Problem(NETWORK, Many()), FLOW),
        ValueError,
        r"that of Many has shape \(2, 2\)",
    ),
    "tolerance that float32 does not carry": (
        lambda: lf.solve(single(), lf.Flow(t1=1.0, rtol=1e-8)),
        ValueError,
        r"rtol=1e-08 is below what float32 weights carry.*jax_enable_x64",
    ),
    "implicit solver in float32": (
        lambda: sweep(lambda lam: single(), method=lf.Flow(t1=1.0, solver=diffrax.Kvaerno5())),
        ValueError,
        r"Kvaerno5 solves its implicit stages.*explicit solver",
    ),
    "samples that are NaN": (
        lambda: lf.Samples(np.array([[1.0], [np.nan]]), np.ones((2, 1))),
        ValueError,
        r"`x` holds \[nan\] at sample 1",
    ),
    "no observable": (lambda: sweep(observe=[]), ValueError, r"`observe` needs at least one function"),
    "samples of two lengths": (
        lambda: lf.Samples(jnp.ones((3, 2)), jnp.ones((4, 2))),
        ValueError,
        r"same length, but `x` has shape \(3, 2\)",
    ),
    "no samples": (lambda: lf.Samples(jnp.ones((0, 2)), jnp.ones((0, 2))), ValueError, r"At least one sample"),
    "complex samples": (
        lambda: lf.Samples(jnp.ones((3, 2), complex), jnp.ones((3, 2))),
        ValueError,
        r"real numbers, but its dtype is complex",
    ),
    "image moments": (
        lambda: lf.Moments.from_samples(jnp.ones((3, 2, 2)), jnp.ones((3, 2))),
        ValueError,
        r"Flatten each sample",
    ),
    "moments that no data have": (
        lambda: lf.Moments(jnp.eye(2), 3 * jnp.eye(2), jnp.eye(2)),
        ValueError,
        r"No data can have these moments",
    ),
    "moments that are not symmetric": (
        lambda: lf.Moments(jnp.array([[1.0, 0.5], [0.0, 1.0]]), jnp.eye(2), jnp.eye(2)),
        ValueError,
        r"symmetric",
    ),
    "moments of other shapes": (
        lambda: lf.Moments(jnp.eye(3), jnp.eye(2), jnp.eye(2)),
        ValueError,
        r"shapes \(3, 3\), \(2, 2\)",
    ),
    "modes of two lengths": (
        lambda: lf.Modes(variance=jnp.ones(2), target=jnp.ones(3)),
        ValueError,
        r"vectors of one length",
    ),
    "whitening with too few samples": (
        lambda: lf.random_regression(KEY, n=3, inp=3, out=1, whiten=True),
        ValueError,
        r"at least n=4, but n=3",
    ),
    "network that cannot take a sample": (
        lambda: lf.Problem(eqx.nn.Linear(3, 2, key=KEY), lf.Samples(jnp.ones((4, 5)), jnp.ones((4, 2)))),
        ValueError,
        r"needs to take one input of shape \(5,\)",
    ),
    "network of another output": (
        lambda: lf.Problem(eqx.nn.Linear(5, 3, key=KEY), lf.Samples(jnp.ones((4, 5)), jnp.ones((4, 2)))),
        ValueError,
        r"has shape \(2,\), but for one input the network gives \(3,\)",
    ),
    "rates that are no prefix": (
        lambda: lf.Problem(NETWORK, TASK, rates=(1.0, 2.0)),
        ValueError,
        r"`rates` is a number or a PyTree prefix",
    ),
    "nothing moves": (lambda: lf.solve(lf.Problem(NETWORK, TASK, rates=None), FLOW), ValueError, r"Nothing moves"),
    "imbalance of one layer": (
        lambda: lf.solve(lf.Problem(lf.linear_model(jnp.ones((2, 2))), TASK), FLOW, observe=lf.layer_imbalance),
        TypeError,
        r"one layer only",
    ),
    "kernel on moments": (
        lambda: lf.solve(PROBLEM, FLOW, observe=lf.ntk),
        TypeError,
        r"Moments holds none. Use Samples",
    ),
    "test task missing": (
        lambda: lf.solve(PROBLEM, FLOW, observe=lf.on_test(lf.loss)),
        ValueError,
        r"on_test\(loss\) needs a test task",
    ),
    "no memory": (lambda: lf.Machine(memory=0), ValueError, r"`memory` is in GiB"),
    "no cells in a chunk": (lambda: lf.Machine(chunk=0), ValueError, r"`chunk` counts cells"),
    "no room for one cell": (lambda: sweep(on=lf.Machine(memory=1e-8)), MemoryError, r"To compute even one cell takes"),
    "a number for a machine": (lambda: sweep(on=4), TypeError, r"`on` needs a lf.Machine, .* it is 4"),
    "half a chunk": (lambda: lf.Machine(chunk=0.5), ValueError, r"`chunk` counts cells .* not 0.5"),
    "no lanes": (lambda: lf.Machine(lanes=0), ValueError, r"`lanes` counts trajectories .* not 0"),
    "negative lanes": (lambda: lf.Machine(lanes=-3), ValueError, r"`lanes` counts trajectories .* not -3"),
    "negative memory": (lambda: lf.Machine(memory=-1.0), ValueError, r"`memory` is in GiB"),
    "negative decay": (lambda: lf.Problem(NETWORK, TASK, decay=-0.1), ValueError, r"`decay` pulls .* but it is -0\.1"),
    "negative decay of a layer": (
        lambda: lf.Problem(NETWORK, TASK, decay=eqx.tree_at(lambda n: n.weights, NETWORK, (0.1, -0.2))),
        ValueError,
        r"`decay` pulls weights towards 0",
    ),
    "negative decay of cells": (
        lambda: sweep(lambda decay: lf.Problem(NETWORK, TASK, decay=decay), {"decay": [0.1, -0.1]}),
        ValueError,
        r"`decay` pulls weights towards 0 and needs to be at least 0",
    ),
    "no decay number": (lambda: lf.Problem(NETWORK, TASK, decay=np.nan), ValueError, r"`decay` pulls weights"),
    "part of a sample": (
        lambda: lf.teacher(jax.random.key(0), NETWORK, n=3.5, inp=2),
        ValueError,
        r"`n` is a whole number of at least 1, but it is 3\.5",
    ),
    "no devices": (lambda: lf.Machine(devices=0), ValueError, r"`devices` counts devices: at least 1, not 0"),
    "memory in words": (lambda: lf.Machine(memory="1"), ValueError, r"`memory` is in GiB .* it is '1'"),
    "a device twice": (lambda: lf.Machine(devices=jax.devices()[:1] * 2), TypeError, r"needs JAX devices, each once"),
    "devices by a flag": (lambda: lf.Machine(devices=True), TypeError, r"needs JAX devices"),
    "more devices than there are": (lambda: lf.Machine(devices=99), ValueError, r"asks for 99 devices, but there are"),
    "a device by name": (lambda: lf.Machine(devices="gpu"), TypeError, r"needs JAX devices.* not 'gpu'"),
    "an empty list of devices": (lambda: lf.Machine(devices=[]), TypeError, r"needs JAX devices"),
    "a diagram larger than the memory": (
        lambda: sweep(lambda key, lam: cell(lam), {"lam": np.zeros(10**6)}, seeds=10**6),
        MemoryError,
        r"The diagram alone takes",
    ),
    "a heat map of one dimension": (lambda: lf.plot.heatmap(sweep()), ValueError, r"two dimensions, but `loss` has 1"),
    "a heat map of many variables": (
        lambda: lf.plot.heatmap(sweep(observe=(lf.loss, lf.kernel_distance))),
        ValueError,
        r"holds `loss`, `kernel_distance`: name one",
    ),
    "a heat map of a list": (lambda: lf.plot.heatmap([1, 2]), TypeError, r"A diagram is needed"),
    "curves over nothing there": (lambda: lf.plot.curves(sweep(), x="t"), ValueError, r"`t` is no dimension of `loss`"),
    "a chain with a surplus that cannot be": (
        lambda: lf.lambda_balanced_chain(KEY, (0.5, 0.0), 1.0, widths=(2, 3, 2, 2)),
        ValueError,
        r"widths \(2, 3, 2, 2\).*need lams\[0\] = 0, but `lams` is \[0.5, 0.0\]",
    ),
    "a chain that would need a negative square": (
        lambda: lf.lambda_balanced_chain(KEY, (0.5, 0.5), 1.0, widths=(3, 3, 3, 2)),
        ValueError,
        r"need lams\[0\] \+ lams\[1\] <= 0 and lams\[1\] <= 0, but `lams` is \[0.5, 0.5\]",
    ),
    "imbalances for another depth": (
        lambda: lf.lambda_balanced_chain(KEY, (0.5, 0.0, 1.0), 1.0, widths=(2, 2, 2, 2)),
        ValueError,
        r"`lams` holds one imbalance per pair of layers.*needs shape \(2,\), but it has shape \(3,\)",
    ),
    "a chain of one layer": (
        lambda: lf.lambda_balanced_chain(KEY, 0.0, 1.0, widths=(2, 2)),
        ValueError,
        r"at least three widths",
    ),
    "an infeasible chain under jit": (
        lambda: eqx.filter_jit(lambda lam: lf.lambda_balanced_chain(KEY, lam, 0.3, widths=(2, 3, 2)))(jnp.asarray(1.0)),
        Exception,
        r"need lams\[0\] = 0. Change",
    ),
    "a chain of no imbalance": (
        lambda: lf.lambda_balanced_chain(KEY, jnp.nan, 0.3, widths=(2, 2, 2)),
        ValueError,
        r"`lams` needs finite numbers",
    ),
    "half a unit": (
        lambda: lf.lambda_balanced_chain(KEY, 0.0, 0.3, widths=(2, 2.5, 2)),
        ValueError,
        r"at least two whole numbers",
    ),
    "no connections": (lambda: lf.LayerwiseNetwork((), ONE, ONE), ValueError, r"at least one pair"),
    "connections that are no pairs": (
        lambda: lf.LayerwiseNetwork((0, 1), ONE, ONE),
        ValueError,
        r"lists pairs \(input, hidden unit\)",
    ),
    "connections between fractions": (lambda: lf.LayerwiseNetwork(((0.5, 0),), ONE, ONE), ValueError, r"whole numbers"),
    "connections to units below 0": (
        lambda: lf.LayerwiseNetwork(((0, -1),), ONE, ONE),
        ValueError,
        r"count from 0, but.*\(0, -1\)",
    ),
    "a connection twice": (
        lambda: lf.LayerwiseNetwork(((0, 0), (0, 0)), jnp.ones(2), ONE),
        ValueError,
        r"\(0, 0\) stands there 2x",
    ),
    "fewer weights than connections": (
        lambda: lf.LayerwiseNetwork(ANY, ONE, jnp.ones(3)),
        ValueError,
        r"`first`.*needs shape \(5,\)",
    ),
    "fewer last weights than hidden units": (
        lambda: lf.LayerwiseNetwork(ANY, jnp.ones(5), ONE),
        ValueError,
        r"`last`.*needs shape \(3,\)",
    ),
    "a skip too many": (
        lambda: lf.LayerwiseNetwork(((0, 0),), ONE, ONE, skip=jnp.ones(2)),
        ValueError,
        r"`skip`.*\(1,\)",
    ),
    "many last biases": (
        lambda: lf.LayerwiseNetwork(((0, 0),), ONE, ONE, bias=ONE),
        ValueError,
        r"`bias`.*needs shape \(\)",
    ),
    "fewer inputs than connections": (
        lambda: lf.LayerwiseNetwork(((2, 0),), ONE, ONE, inp=2),
        ValueError,
        r"needs at least 3, but it is 2",
    ),
    "biases on modes": (
        lambda: lf.Problem(lf.LayerwiseNetwork(((0, 0),), ONE, ONE, bias=0.0), lf.Modes(ONE, 1.0)),
        TypeError,
        r"LayerwiseNetwork has none. Give the data themselves",
    ),
    "a strength per skill": (lambda: lf.skill_network(0.1), ValueError, r"one strength per skill, shape \(skill,\)"),
    "no layers of skills": (lambda: lf.skill_network(ONE, depth=0), ValueError, r"at least 1, but it is 0"),
    "features and classifier": (
        lambda: lf.feature_model(jnp.ones((3, 4)), jnp.ones((2, 2))),
        ValueError,
        r"Layers need to fit",
    ),
    "complex observable": (
        lambda: lf.solve(PROBLEM, FLOW, observe={"roots": lambda n, p: jnp.linalg.eigvals(n.matrix)}),
        TypeError,
        r"`roots` is complex.*'real': z.real",
    ),
    "observable of nothing": (
        lambda: lf.solve(PROBLEM, FLOW, observe={"none": lambda n, p: {}}),
        ValueError,
        r"`none` returned an empty dict",
    ),
    "an infeasible chain on an axis": (
        lambda: sweep(lambda lam: lf.Problem(lf.lambda_balanced_chain(KEY, lam, 0.1, widths=(2, 3, 2)), TASK)),
        ValueError,
        r"No linear network of widths.*First at lam=1.0",
    ),
    "laziness by itself": (
        lambda: lf.laziness(NETWORK, PROBLEM),
        TypeError,
        r"measured along them: lf.solve",
    ),
    "scaled sharpness of a flow": (
        lambda: lf.solve(PROBLEM, FLOW, observe=lf.scaled_sharpness),
        TypeError,
        r"measured under lf.Descent\(..., learning_rate=0.1\)",
    ),
    "summary without times": (
        lambda: lf.solve(PROBLEM, FLOW, summary=lf.plateaus()),
        ValueError,
        r"needs times to measure at: ts=",
    ),
    "summary of what is not observed": (
        lambda: lf.solve(PROBLEM, FLOW, ts=[0.0, 1.0], summary=lf.half_times),
        ValueError,
        r"half_times reads the path of `mode_strengths`, but these are observed: loss",
    ),
    "plateaus of a vector": (
        lambda: lf.solve(
            PROBLEM, FLOW, ts=[0.0, 1.0], observe=lf.mode_strengths, summary=lf.plateaus(of="mode_strengths")
        ),
        ValueError,
        r"one number at each time, but `mode_strengths` has shape \(2,\)",
    ),
    "summary that returns text": (
        lambda: lf.solve(PROBLEM, FLOW, ts=[0.0, 1.0], summary={"s": lambda path: "slow"}),
        TypeError,
        r"Functions of `summary` return an array",
    ),
    "one name for an observable and a summary": (
        lambda: lf.solve(PROBLEM, FLOW, ts=[0.0, 1.0], summary={"loss": lf.plateaus()}),
        ValueError,
        r"both called `loss`",
    ),
    "one variable from an observable and a summary": (
        lambda: lf.solve(
            PROBLEM,
            FLOW,
            ts=[0.0, 1.0],
            observe={"loss": lf.loss, "rest_count": lf.loss},
            summary={"rest": lf.plateaus()},
        ),
        ValueError,
        r"both give `rest_count`",
    ),
    "paths dropped and no summary": (
        lambda: sweep(ts=[0.0, 1.0], paths=False),
        ValueError,
        r"keeps what summaries say, but there is none",
    ),
    "derivative by what is no axis": (
        lambda: sweep(derivative=("scale",)),
        ValueError,
        r"names axes of floating point numbers \(here: lam\), but `scale` is not one",
    ),
    "derivative by whole numbers": (
        lambda: sweep(axes={"lam": [0, 1]}, derivative="lam"),
        ValueError,
        r"\(here: none\), but `lam` is not one",
    ),
    "adjoint that is none": (lambda: lf.Flow(t1=1.0, adjoint="reverse"), TypeError, r"`adjoint` needs diffrax"),
    "exact at no time": (lambda: lf.Exact(t1=0.0), ValueError, r"`t1` needs to be positive"),
    "exact where nothing holds": (
        lambda: lf.solve(lf.Problem(lf.gaussian(KEY, (2, 2, 2, 2)), TASK), lf.Exact(t1=1.0)),
        ValueError,
        r"No closed form holds: the deep modes of an aligned .*Use lf.Flow",
    ),
    "exact of a start that is not balanced": (
        lambda: lf.solve(lf.Problem(lf.gaussian(KEY, (2, 2, 2)), TASK), lf.Exact(t1=1.0)),
        ValueError,
        r"lambda-balanced.*violated by",
    ),
    "laziness of a closed form": (
        lambda: lf.solve(PROBLEM, lf.Exact(t1=1.0), observe=lf.laziness),
        TypeError,
        r"laziness follows the path step by step",
    ),
    "verifying descent": (
        lambda: sweep(method=lf.Descent(optax.sgd, learning_rate=0.1, steps=3), verify=True),
        TypeError,
        r"against the tolerance of lf.Flow",
    ),
    "calibration of two parameters that do the same": (
        lambda: lf.calibrate(
            lambda t, a, b: a * b * t, (np.arange(5.0), np.arange(5.0)), ("a", "b"), parameters={"a": 1.0, "b": 1.0}
        ),
        ValueError,
        r"cannot tell the parameters a, b apart",
    ),
    "calibration of an unknown parameter": (
        lambda: lf.calibrate(lf.theory.sigmoidal, (np.arange(5.0), np.arange(5.0)), "speed", parameters={"speed": 1.0}),
        TypeError,
        r"does not take `speed`; it takes t, start, target, variance",
    ),
    "calibration that leads nowhere": (
        lambda: lf.calibrate(
            lf.theory.sigmoidal,
            (np.linspace(0, 8, 50), lf.theory.sigmoidal(np.linspace(0, 8, 50), 0.01, 2.0, 0.7)),
            "variance",
            parameters={"start": 0.01, "target": 2.0, "variance": 1000.0},
        ),
        ValueError,
        r"went nowhere from the first guess .*hardly depends on variance",
    ),
    "calibration from what the closed form refuses": (
        lambda: lf.calibrate(
            lf.theory.sigmoidal,
            (np.arange(5.0), np.arange(5.0)),
            "variance",
            parameters={"start": 0.01, "target": 2.0, "variance": -1.0},
        ),
        ValueError,
        r"gives no curve of finite numbers",
    ),
    "forward derivatives of a reverse flow": (
        lambda: sweep(method=lf.Flow(t1=1.0, adjoint=diffrax.RecursiveCheckpointAdjoint()), derivative="lam"),
        TypeError,
        r"forward mode, which adjoint=RecursiveCheckpointAdjoint\(\) does not have",
    ),
    "closed form of no problem": (lambda: lf.Exact.applies(3), TypeError, r"A Problem is needed"),
    "calibration without a first guess": (
        lambda: lf.calibrate(
            lf.theory.sigmoidal, (np.arange(5.0), np.arange(5.0)), "start", parameters={"target": 1.0}
        ),
        ValueError,
        r"first guess is missing for `start`",
    ),
    "calibration of many curves": (
        lambda: lf.calibrate(
            lf.theory.sigmoidal, (np.arange(5.0), np.ones((5, 2))), "start", parameters={"start": 0.1}
        ),
        ValueError,
        r"one number per time, but times have shape \(5,\) and values \(5, 2\)",
    ),
    "fraction beyond the way": (lambda: lf.time_to_fraction(1.5), ValueError, r"in \(0, 1\], but it is 1.5"),
    "number for a key": (lambda: lf.gaussian(0, (2, 1)), TypeError, r"one random key.*jax.random.key\(0\).*it is 0"),
    "many keys for one": (
        lambda: lf.fold(jax.random.split(KEY), "task"),
        TypeError,
        r"one random key.*an array of shape \(2,\)",
    ),
    "no learning rate": (
        lambda: lf.Descent(optax.sgd, steps=3),
        TypeError,
        "such as learning_rate=0.01. It takes learning_rate.* but nothing came",
    ),
    "network of another width": (
        lambda: lf.Problem(lf.MLP.lecun(KEY, (3, 4, 1)), lf.Samples(jnp.ones((5, 2)), jnp.ones((5, 1)))),
        ValueError,
        r"take one input of shape \(2,\), a row of `x`.*its inputs have shape \(3,\)",
    ),
    "pairs for a transformer": (
        lambda: lf.Problem(
            lf.Transformer.lecun(KEY, tokens=3, vocabulary=4, out=3, width=4, heads=1, hid=4),
            lf.modular_arithmetic(KEY, 3)[0],
        ),
        ValueError,
        r'shape \(3, 4\), as lf.modular_arithmetic\(..., form="tokens"\) gives them',
    ),
    "skills for a task": (
        lambda: lf.Problem(NETWORK, lf.SparseParity()),
        TypeError,
        r"it is of type SparseParity. Draw from it: lf.Stream\(SparseParity\(...\).draw\)",
    ),
    "factory of summaries": (
        lambda: lf.solve(PROBLEM, FLOW, ts=[0.5], summary=lf.grokking_delay),
        TypeError,
        r"`grokking_delay` does not take that.*summary=grokking_delay\(...\)",
    ),
    "name of an observable": (
        lambda: lf.solve(PROBLEM, FLOW, observe="kernel_distance"),
        TypeError,
        "such as lf.kernel_distance, not their names, but 'kernel_distance' came",
    ),
    "one number for an axis": (lambda: sweep(axes={"lam": 0.3}), ValueError, r"it is one number. Give it as \[0.3\]"),
    "how many times for times": (lambda: lf.solve(PROBLEM, FLOW, ts=50), ValueError, r"jnp.linspace\(0, t1, 50\)"),
    "hidden layers of a pair": (
        lambda: lf.lambda_balanced(KEY, 0.5, 0.3, inp=6, hid=(3, 2), out=4),
        TypeError,
        r"`hid` is one width, but it is \(3, 2\).*lf.lambda_balanced_chain",
    ),
    "width on an axis": (
        lambda: sweep(lambda width: lf.Problem(lf.gaussian(KEY, (2, width, 2)), TASK), {"width": [2, 3]}),
        TypeError,
        r"`widths` decides the shapes.*lf.static",
    ),
    "targets in a row": (
        lambda: lf.Problem(lf.gaussian(KEY, (2, 1)), lf.Samples(jnp.ones((5, 2)), jnp.ones(5))),
        ValueError,
        r"Give targets one column each: y\[:, None\]",
    ),
    "many levels of a boundary": (
        lambda: lf.boundary(FIELD, [0.1, 0.2]),
        ValueError,
        r"`level` is one value, but 2 came.*for level in levels",
    ),
    "an array of levels": (
        lambda: lf.boundary(FIELD, np.array([0.1, 0.2])),
        ValueError,
        "`level` is one value, but 2 came",
    ),
    "no level of a boundary": (
        lambda: lf.boundary(FIELD, None),
        TypeError,
        'needs a number or "steepest", but it is None',
    ),
    "boundary over a swapped map": (
        lambda: lf.plot.boundary(lf.boundary(FIELD, 0.5), ax=lf.plot.heatmap(FIELD, x="lam", y="scale")),
        ValueError,
        "`lam` across and `scale` up, but the boundary was found with `scale` across",
    ),
    "no plateaus to tell of": (lambda: lf.plateaus(most=0), ValueError, r"`most` needs to be positive"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_in_the_users_words(case):
    call, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        call()


@pytest.fixture
def on_a_tpu(monkeypatch):
    """Devices say that they are TPUs; nothing is compiled for them."""
    tpu = types.SimpleNamespace(platform="tpu", memory_stats=dict)
    monkeypatch.setattr(lf.Machine, "local_devices", lambda _: [tpu])
    monkeypatch.setattr("layerflow._solve.default_device", lambda: tpu)
    monkeypatch.setattr("layerflow.engine._programs.Programs.of_chunks", lambda *_: pytest.fail("compiled"))


@pytest.mark.parametrize("method", [lf.Exact(t1=1.0), lf.Flow(t1=1.0, solver=diffrax.Kvaerno5())], ids=str)
def test_methods_that_no_tpu_computes_in_float64_are_refused_there(method, on_a_tpu):  # noqa: ARG001
    with pytest.raises(ValueError, match=r"A TPU has no float64, and XLA .* Turn float64 off .* or compute on the CPU"):
        sweep(method=method)
    with pytest.raises(ValueError, match="A TPU has no float64"):
        lf.solve(PROBLEM, method)


def test_a_store_that_is_resumed_there_is_refused_too(tmp_path, request):
    sweep(method=lf.Exact(t1=1.0), store=tmp_path / "store")
    for array in (tmp_path / "store").glob("*/c"):
        shutil.rmtree(array)
    request.getfixturevalue("on_a_tpu")

    with pytest.raises(ValueError, match="A TPU has no float64"):
        sweep(method=lf.Exact(t1=1.0), store=tmp_path / "store")


def test_float64_on_a_tpu_is_told_with_its_cost():
    tpu = types.SimpleNamespace(platform="tpu")
    with pytest.warns(UserWarning, match=r"A TPU has no float64. .* five to seven times the operations"):
        check_float64(np.dtype("float64"), tpu, emulated=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_float64(np.dtype("float32"), tpu, emulated=False)
        check_float64(np.dtype("float64"), jax.devices()[0], emulated=False)
