"""`layerflow diagram`: layer imbalance against target scale, for data of the user's own."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
import tyro

import layerflow as lf
from layerflow.base._memory import check_room
from layerflow.cli._datafile import Data, read_data
from layerflow.cli._shared import (
    Dtype,
    MethodName,
    UserError,
    check_positive,
    draw,
    keep,
    plain,
    report,
    set_up,
    writable,
)
from layerflow.diagrams._array import over_seeds, verbatim
from layerflow.plot._panels import panels
from layerflow.starts._chain import layer_squares
from layerflow.store._command import begun_by

if TYPE_CHECKING:
    import xarray

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

OUT = pathlib.Path("diagrams")


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
    """Gradient flow, its closed form (balanced starts on whitened inputs), or gradient descent."""
    learning_rate: float | None = None
    """Of descent; 0.01 if not given."""
    dtype: Dtype = "float64"
    """Precision of all numbers."""
    out: pathlib.Path = OUT
    """Folder for the picture (PNG, PDF) and the numbers (NetCDF), named after the data."""
    store: str | None = None
    """Folder or URL to keep every finished chunk in; `layerflow resume` goes on from there."""

    def run(self) -> None:
        """Read, check, sweep, draw, save and report."""
        begin = time.perf_counter()
        self._check()
        folder = writable(self.out)
        set_up(self.dtype)
        data = read_data(plain(self.data), targets=self.targets)
        self._check_observables(data)
        train, test = self._tasks(data)
        widths = self._all_widths(train.x.shape[1], train.y.shape[1])
        diagram = self._sweep(train, test, widths)
        network = "-".join(map(str, widths))
        title = f"{self._name}: {network} from {_STARTS[self.start]}, at t = {self._horizon:g}"
        numbers = keep(diagram, folder / self.data.stem)
        line, notes = self._line(diagram)
        notes += _on_failures(diagram)
        saved = draw(lambda: self._draw(diagram, title, line), numbers)
        report(title, diagram, notes, saved, begin)
        saved.check()
        if bool(diagram.lf.failed.all()):
            raise UserError("Every cell failed; the files hold why. Try --whiten, or a smaller --t1.")

    @property
    def _name(self) -> str:
        """What the data are called: the name of their file, as far as it is text."""
        return os.fsencode(self.data.stem).decode(errors="replace")

    def _check(self) -> None:
        """Raise for numbers that no run can have."""
        counts = {name: getattr(self, name) for name in ("depth", "grid", "seeds", "components")}
        check_positive(**counts, strength=self.strength, t1=self.t1, learning_rate=self.learning_rate)
        check_room(8 * self.grid**2 * self.seeds, "Such a diagram", "Take a smaller --grid or fewer --seeds.")
        weights = self.depth * max(self.widths, default=1) ** 2
        check_room(8 * weights, "Such a network", "Take a smaller --depth or --widths.")
        if self.method != "descent" and self.learning_rate is not None:
            raise UserError("--learning-rate belongs to --method descent. Give both or neither.")
        if self.method == "descent" and self._rate > self.t1:
            raise UserError(
                f"--learning-rate {self._rate:g} steps beyond --t1 {self.t1:g} at once. Take a smaller one."
            )
        if self.boundary is not None:
            check_positive(boundary=self.boundary)
            if self.grid < 3:
                raise UserError(f"--boundary needs --grid of at least 3, but it is {self.grid}.")
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

    def _check_observables(self, data: Data) -> None:
        """Raise for measurements that this data cannot give."""
        for name in self.observe:
            if name.startswith("test_") and data.x_test is None:
                raise UserError(f"--observe {name} needs arrays x_test and y_test, but {self.data} holds none.")
            several = data.y.shape[1] > 1 and self.targets == "values"
            one_sign = data.y.shape[1] == 1 and len(np.unique(np.sign(data.y))) == 1
            many = data.y.shape[1] == 1 and len(np.unique(data.y)) > 2
            if name.endswith("accuracy") and (several or one_sign or many):
                raise UserError(
                    f"--observe {name} needs labels: rows with a column per class, or two values of either sign. Say "
                    f"what y holds: --targets classes for one class per sample, --targets one-hot or centred for rows."
                )

    def _tasks(self, data: Data) -> tuple[lf.Samples, lf.Samples | None]:
        """Training and test task, with inputs as asked for."""
        inputs = lambda x: x
        if self.whiten or self.components is not None:
            inputs = lf.principal_components(data.x, self.components, whiten=self.whiten)
        train = lf.Samples(inputs(data.x), data.y)
        if data.x_test is None or data.y_test is None:
            return train, None
        return train, lf.Samples(inputs(data.x_test), data.y_test)

    def _all_widths(self, inp: int, out: int) -> tuple[int, ...]:
        """Widths of all layers of units."""
        hidden = self.widths or (min(inp, out),)
        return (inp, *(hidden * (self.depth - 1) if len(hidden) == 1 else hidden), out)

    def _sweep(self, train: lf.Samples, test: lf.Samples | None, widths: tuple[int, ...]) -> "xarray.Dataset":
        """The diagram."""

        def cell(key: Any, lam: Any, target_scale: Any) -> lf.Problem:
            start = _start(self.start, key, lam, self.strength, widths, train)
            rescaled = None if test is None else test.rescale(target=target_scale)
            return lf.Problem(start, train.rescale(target=target_scale), test=rescaled)

        cell.__name__ = self._name
        try:
            with begun_by(self._words()):
                return lf.sweep(
                    cell,
                    {"lam": _between(self.lam, self.grid, np.linspace), "target_scale": self._target_scales()},
                    seeds=self.seeds,
                    method=self._method(),
                    observe={name: _observable(name) for name in self.observe},
                    store=self.store,
                )
        except ValueError as error:
            if not str(error).startswith("No ") or self.start in ("gaussian", "symmetrised"):
                raise
            raise UserError(f"{error} Or take other --lam or --widths, or --start gaussian.") from None

    def _words(self) -> list[str]:
        """The flags that make this command again, wherever it is called; what it writes to is for the caller to say."""
        words = [str(plain(self.data).absolute())]
        for field in dataclasses.fields(self):
            value, flag = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if field.name in ("data", "out", "store") or value == field.default:
                continue
            words += [flag] if value is True else [flag, *map(str, value if isinstance(value, tuple) else [value])]
        return words

    def _target_scales(self) -> np.ndarray:
        return _between(self.target_scale, self.grid, np.geomspace)

    def _method(self) -> Any:
        """How to travel."""
        if self.method != "descent":
            return (lf.Flow if self.method == "flow" else lf.Exact)(t1=self.t1)
        return lf.Descent(optax.sgd, learning_rate=self._rate, steps=round(self.t1 / self._rate))

    @property
    def _rate(self) -> float:
        return 0.01 if self.learning_rate is None else self.learning_rate

    @property
    def _horizon(self) -> float:
        """Where the run ends, in gradient-flow time."""
        return self.t1 if self.method != "descent" else self._rate * round(self.t1 / self._rate)

    def _line(self, diagram: "xarray.Dataset") -> "tuple[xarray.Dataset | None, list[str]]":
        """The boundary to draw, or a note that there is none."""
        if self.boundary is None:
            return None, []
        measured = diagram[self.observe[0]]
        try:
            line = lf.boundary(measured, self.boundary, x="target_scale", log=self.observe[0] not in _LINEAR)
        except ValueError as error:
            return None, [f"--boundary is not drawn: {error}"]
        band = ["The band about the line is the middle half of the seeds."] if line.attrs["num_seeds"] > 1 else []
        return line, band

    def _draw(self, diagram: "xarray.Dataset", title: str, line: "xarray.Dataset | None") -> Any:
        """One panel per observable."""
        drawn = []
        for name in self.observe:
            log = name not in _LINEAR
            drawn.append((over_seeds(diagram[name], log=log), {"log": True} if log else {"cmap": "cividis"}))
        return panels(drawn, x="target_scale", title=verbatim(title), line=line)


_LINEAR = ("accuracy", "test_accuracy", "effective_rank")  # drawn to a linear scale


def _on_failures(diagram: "xarray.Dataset") -> list[str]:
    """What to try where many cells failed."""
    if diagram.lf.failed.mean() <= 0.5:
        return []
    return ["Most cells failed. Inputs of large variance make stiff flows: try --whiten, or a smaller --t1."]


_STARTS = {
    "lambda-balanced": "λ-balanced starts",
    "aligned": "λ-balanced starts aligned with the task",
    "gaussian": "Gaussian starts, λ-balanced in the mean",
    "symmetrised": "symmetrised Gaussian starts, λ-balanced in the mean",
}


def _start(kind: str, key: Any, lam: Any, strength: float, widths: tuple[int, ...], task: lf.Samples) -> Any:
    """The network at the start of one cell."""
    if kind == "lambda-balanced":
        return lf.lambda_balanced_chain(key, lam, strength, widths=widths)
    if kind == "aligned":
        return lf.aligned(task, lam, strength, hid=widths[1], key=key)
    stds = _mean_balanced_stds(lam, strength, widths)
    return (lf.gaussian if kind == "gaussian" else lf.symmetrised)(key, widths, std=stds)


def _mean_balanced_stds(lam: Any, strength: float, widths: tuple[int, ...]) -> Any:
    """Standard deviations of Gaussian layers with E[w_{l+1}^T w_{l+1} - w_l w_l^T] = lam I."""
    squares = layer_squares(jnp.full(len(widths) - 2, lam), jnp.full(1, strength, jnp.asarray(lam).dtype))[0]
    # w w^T of the first layer sums over the inputs, w^T w of the last over the outputs, others over hidden units.
    return jnp.sqrt(squares / jnp.asarray((widths[0], *widths[2:-1], widths[-1]), squares.dtype))


def _observable(name: str) -> Callable[..., Any]:
    """The observable of a name."""
    on_train = getattr(lf, name.removeprefix("test_"))
    return lf.on_test(on_train) if name.startswith("test_") else on_train


def _between(ends: tuple[float, float], grid: int, spaced: Callable[..., np.ndarray]) -> np.ndarray:
    """Axis values from one end to the other; one if they are the same."""
    low, high = ends
    return np.array([low]) if low == high else spaced(low, high, grid)
