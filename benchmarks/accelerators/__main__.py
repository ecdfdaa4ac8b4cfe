"""`python -m benchmarks.accelerators`."""

from benchmarks.accelerators.commands import main

if __name__ == "__main__":
    main()
