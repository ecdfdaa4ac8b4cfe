"""`python -m benchmarks.accelerators`."""

import os

from benchmarks.accelerators.targets import ENVIRONMENT

os.environ.update(ENVIRONMENT)  # before JAX is imported, which would take hold of accelerators that are there

from benchmarks.accelerators.commands import main

if __name__ == "__main__":
    main()
