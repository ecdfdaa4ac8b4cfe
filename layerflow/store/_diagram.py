"""The diagram that a store keeps, whose numbers are read when they are used."""

import json
from typing import Any

from xarray import Variable
from xarray.core.indexing import LazilyIndexedArray

from layerflow.diagrams._array import RETRIED
from layerflow.diagrams._dataset import Diagram
from layerflow.store._description import coordinates_in
from layerflow.store._lazy import OnGrid
from layerflow.store._log import runs
from layerflow.store._place import Place
from layerflow.store._retries import Retries
from layerflow.store._store import Store
from layerflow.sweeps._chunks import one_or_all


def diagram_in(place: Place) -> Diagram:
    """The diagram in the store at a place, finished or still under way."""
    store = Store(place)
    retries = Retries(store)
    axes = [axis.name for axis in store.grid.axes]
    read = lambda name: LazilyIndexedArray(OnGrid(store, retries, name))
    data = {
        name: Variable([*axes, *array.metadata.dimension_names[2:]], read(name), dict(array.attrs))
        for name, array in store.arrays.items()
    }
    if len(retries):
        data["retried"] = Variable(axes, read("retried"), RETRIED)
    return Diagram(data, coordinates_in(store.description), _attrs(store, retries))


def _attrs(store: Store, retries: Retries) -> dict[str, Any]:
    """How the diagram was made: the facts of the sweep, and those of all runs together."""
    records, description = runs(store.place), store.description
    lanes = [count for count in description["lanes"] if count is not None]
    of_all = lambda name, over, default: over([record.get(name, default) for record in records] or [default])
    return description["facts"] | {
        "asked": json.dumps(description["asked"]),
        "store": str(store.place),
        "chunk": description["chunk"],
        **({"lanes": one_or_all(lanes)} if lanes else {}),
        "devices": of_all("devices", max, 1),
        "calls_split": of_all("calls_split", sum, 0),
        "chunk_bytes": of_all("chunk_bytes", max, 0),
        "compile_seconds": round(of_all("compile_seconds", sum, 0.0), 3),
        "wall_seconds": round(of_all("seconds", sum, 0.0), 3),
        "runs": len(records),
        **({"retries": json.dumps(retries.methods)} if len(retries) else {}),
    }
