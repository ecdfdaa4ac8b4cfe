"""What a sweep is asked for, its record, and its chunks."""
