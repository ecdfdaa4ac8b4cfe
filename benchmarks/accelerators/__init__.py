"""What accelerators would run: the programs of sweeps, compiled for devices that are not there."""
