"""Data sets: where their files are, what their labels mean, how samples are read, varied and checked."""
