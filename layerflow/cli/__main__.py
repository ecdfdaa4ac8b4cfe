"""`python -m layerflow.cli`, where the command itself is not on the path."""

from layerflow.cli import main

main()
