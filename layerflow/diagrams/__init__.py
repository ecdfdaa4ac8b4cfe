"""The labelled result of a sweep, and what is read off it."""
