"""Grid, chunks and compiled programs: how many cells run in one call."""
