"""`layerflow diagram`: layer imbalance against target scale, for data of the user's own."""

import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from layerflow.cli._shared import Dtype, MethodName, UserError, check_positive, report, save, set_up, writable

if TYPE_CHECKING:
    import xarray

    from layerflow import Problem, Samples
    from layerflow._datafile import Data

Observable = Literal[
    "kernel_distance",
    "laziness",
    "loss",
    "test_loss",
    "accuracy",
    "test_accuracy",
    "effective_rank",
    "sharpness",
]


@dataclass(frozen=True)
class Diagram:
    """Sweep layer imbalance and target scale for your own data, and draw it.

    Linear networks learn `y` from `x`. Inputs are centred by --whiten and --components, and by nothing else.
    """

    data: Annotated[pathlib.Path, tyro.conf.Positional]
    """NPZ file of arrays x and y, one row per sample, and optionally x_test and y_test."""
    targets: Literal["values", "classes", "one-hot", "centred"] = "values"
    """What y holds: numbers as they are; classes to turn into one-hot rows; one-hot rows; those minus 1/classes."""
    components: int | None = None
    """Keep that many principal components of the inputs, found on x."""
    whiten: bool = False
    """Give every component variance 1 (all components, unless --components says how many)."""
    start: Literal["lambda-balanced", "aligned", "gaussian", "symmetrised"] = "lambda-balanced"
    """Exactly balanced with random or with the task's singular vectors; Gaussian, balanced in the mean; or Gaussian
    with a zero function."""
    depth: int = 2
    """Layers of weights."""
    widths: tuple[int, ...] = ()
    """Hidden widths, one for all or one each; as narrow as inputs or targets if not given."""
    strength: float = 0.1
    """Singular values of the network's matrix at the start (in the mean, for Gaussian starts)."""
    lam: tuple[float, float] = (-9.0, 9.0)
    """Layer imbalance, from and to."""
    target_scale: tuple[float, float] = (0.1, 10.0)
    """Factor on the targets, from and to, in even ratios."""
    grid: int = 21
    """Points along each axis; an odd number puts one at the middle of λ."""
    seeds: int = 1
    """Random starts in each cell."""
    observe: tuple[Observable, ...] = ("kernel_distance", "loss")
    """What to measure at the end, one panel each."""
    boundary: float | None = None
    """Draw over every panel the line where the first observable has this value, with its band over seeds."""
    t1: float = 40.0
    """Horizon in gradient-flow time, learning rate times steps."""
    method: MethodName = "flow"
    """Gradient flow, or gradient descent."""
    learning_rate: float = 0.01
    """Of descent."""
    dtype: Dtype = "float64"
    """Precision of all numbers."""
    out: pathlib.Path = pathlib.Path("diagrams")
    """Folder for the picture (PNG, PDF) and the numbers (NetCDF), named after the data."""

    def run(self) -> None:
        """Read, check, sweep, draw, save and report."""
        begin = time.perf_counter()
        self._check()
        folder = writable(self.out)
        set_up(self.dtype)
        from layerflow._datafile import read_data

        data = read_data(self.data, targets=self.targets)
        self._check_observables(data)
        train, test = self._tasks(data)
        widths = self._all_widths(train.x.shape[1], train.y.shape[1])
        diagram = self._sweep(train, test, widths)
        network = "-".join(map(str, widths))
        title = f"{self.data.stem}: {network} from {_STARTS[self.start]}, at t = {self.t1:g}"
        files = save(self._draw(diagram, title), diagram, folder / self.data.stem)
        report(title, diagram, (), files, begin)

    def _check(self) -> None:
        """Raise for numbers that no run can have."""
        counts = {name: getattr(self, name) for name in ("depth", "grid", "seeds", "components")}
        check_positive(**counts, strength=self.strength, t1=self.t1, learning_rate=self.learning_rate)
        check_positive(target_scale=min(self.target_scale))
        for name in ("lam", "target_scale"):
            low, high = getattr(self, name)
            if not (np.isfinite([low, high]).all() and low <= high):
                raise UserError(f"--{name.replace('_', '-')} runs from a number to a larger one, not {low} to {high}.")
        if self.depth < 2:
            raise UserError("--depth 1 has no layer imbalance: it needs two layers of weights at least.")
        if len(self.widths) > 1 and len(self.widths) != self.depth - 1:
            raise UserError(
                f"--widths takes one width for all hidden layers or one each, {self.depth - 1} for --depth "
                f"{self.depth}, but {len(self.widths)} came."
            )
        if any(width < 1 for width in self.widths):
            raise UserError(f"--widths needs positive whole numbers, not {' '.join(map(str, self.widths))}.")
        if self.start == "aligned" and self.depth != 2:
            raise UserError("--start aligned has two layers. Leave out --depth, or take --start lambda-balanced.")
        if self.start in ("gaussian", "symmetrised") and len(set(self.widths)) > 1:
            raise UserError(f"--start {self.start} needs one width for all hidden layers. Give --widths one number.")

    def _check_observables(self, data: "Data") -> None:
        """Raise for measurements that this data cannot give."""
        for name in self.observe:
            if name.startswith("test_") and data.x_test is None:
                raise UserError(f"--observe {name} needs arrays x_test and y_test, but {self.data} holds none.")
            one_sign = data.y.shape[1] == 1 and len(np.unique(np.sign(data.y))) == 1
            if name.endswith("accuracy") and (one_sign or (data.y.shape[1] == 1 and len(np.unique(data.y)) > 2)):
                raise UserError(
                    f"--observe {name} needs labels: rows with a column per class, or two values of either sign. If y "
                    f"holds one class per sample, say so: --targets classes."
                )

    def _tasks(self, data: "Data") -> "tuple[Samples, Samples | None]":
        """Training and test task, with inputs as asked for."""
        from layerflow import Samples, principal_components

        inputs = lambda x: x
        if self.whiten or self.components is not None:
            inputs = principal_components(data.x, self.components, whiten=self.whiten)
        train = Samples(inputs(data.x), data.y)
        if data.x_test is None or data.y_test is None:
            return train, None
        return train, Samples(inputs(data.x_test), data.y_test)

    def _all_widths(self, inp: int, out: int) -> tuple[int, ...]:
        """Widths of all layers of units."""
        hidden = self.widths or (min(inp, out),)
        return (inp, *(hidden * (self.depth - 1) if len(hidden) == 1 else hidden), out)

    def _sweep(self, train: "Samples", test: "Samples | None", widths: tuple[int, ...]) -> "xarray.Dataset":
        """The diagram."""
        import layerflow as lf

        def cell(key: Any, lam: Any, target_scale: Any) -> "Problem":
            start = _start(self.start, key, lam, self.strength, widths, train)
            rescaled = None if test is None else test.rescale(target=target_scale)
            return lf.Problem(start, train.rescale(target=target_scale), test=rescaled)

        cell.__name__ = self.data.stem
        try:
            return lf.sweep(
                cell,
                {"lam": _between(self.lam, self.grid, np.linspace), "target_scale": self._target_scales()},
                seeds=self.seeds,
                method=self._method(),
                observe={name: _observable(name) for name in self.observe},
            )
        except ValueError as error:
            if not str(error).startswith("No ") or self.start in ("gaussian", "symmetrised"):
                raise
            raise UserError(f"{error} Or take other --lam or --widths, or --start gaussian.") from None

    def _target_scales(self) -> np.ndarray:
        return _between(self.target_scale, self.grid, np.geomspace)

    def _method(self) -> Any:
        """How to travel."""
        import optax

        from layerflow import Descent, Flow

        if self.method == "flow":
            return Flow(t1=self.t1)
        return Descent(optax.sgd, learning_rate=self.learning_rate, steps=max(1, round(self.t1 / self.learning_rate)))

    def _draw(self, diagram: "xarray.Dataset", title: str) -> Any:
        """One panel per observable."""
        from layerflow import boundary
        from layerflow.plot._panels import over_seeds, panels

        drawn = []
        for name in self.observe:
            log = name not in ("accuracy", "test_accuracy", "effective_rank")
            how = {"log": log} if log else {"cmap": "cividis"}
            drawn.append((over_seeds(diagram[name], log=log), how))
        line = None
        if self.boundary is not None:
            log = drawn[0][1].get("log", False)
            line = boundary(diagram[self.observe[0]], self.boundary, x="target_scale", log=log)
        return panels(drawn, x="target_scale", title=title, line=line)


_STARTS = {
    "lambda-balanced": "λ-balanced starts",
    "aligned": "λ-balanced starts aligned with the task",
    "gaussian": "Gaussian starts, λ-balanced in the mean",
    "symmetrised": "symmetrised Gaussian starts, λ-balanced in the mean",
}


def _start(kind: str, key: Any, lam: Any, strength: float, widths: tuple[int, ...], task: "Samples") -> Any:
    """The network at the start of one cell."""
    import layerflow as lf

    if kind == "lambda-balanced":
        return lf.lambda_balanced_chain(key, lam, strength, widths=widths)
    if kind == "aligned":
        return lf.aligned(task, lam, strength, hid=widths[1], key=key)
    stds = _mean_balanced_stds(lam, strength, widths)
    return (lf.gaussian if kind == "gaussian" else lf.symmetrised)(key, widths, std=stds)


def _mean_balanced_stds(lam: Any, strength: float, widths: tuple[int, ...]) -> Any:
    """Standard deviations of Gaussian layers with E[w_{l+1}^T w_{l+1} - w_l w_l^T] = lam I."""
    import jax.numpy as jnp

    from layerflow.starts._chain import layer_squares

    squares = layer_squares(jnp.full(len(widths) - 2, lam), jnp.full(1, strength, jnp.asarray(lam).dtype))[0]
    # w w^T of the first layer sums over the inputs, w^T w of the last over the outputs, others over hidden units.
    return jnp.sqrt(squares / jnp.asarray((widths[0], *widths[2:-1], widths[-1]), squares.dtype))


def _observable(name: str) -> Callable[..., Any]:
    """The observable of a name."""
    import layerflow as lf

    on_train = getattr(lf, name.removeprefix("test_"))
    return lf.on_test(on_train) if name.startswith("test_") else on_train


def _between(ends: tuple[float, float], grid: int, spaced: Callable[..., np.ndarray]) -> np.ndarray:
    """Axis values from one end to the other; one if they are the same."""
    low, high = ends
    return np.array([low]) if low == high else spaced(low, high, grid)
