"""The yardstick for many small flows on a CPU: the same steps in C++, vectorised by hand."""
