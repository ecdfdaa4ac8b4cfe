"""`python -m benchmarks`."""

from benchmarks.suite.commands import main

if __name__ == "__main__":
    main()
