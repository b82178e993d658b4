"""Scores: a confusion matrix and what follows from it."""
