"""Ground that imports nothing of layerflow: checks, keys, numerics, cards, the compile cache."""
