"""Weights on disk: bundles, and the names that other code bases use."""
