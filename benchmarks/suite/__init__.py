"""The suite behind `python -m benchmarks`: problems, backends that solve them, and what is made of the answers."""
