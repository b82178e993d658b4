"""Weights on disk: bundles, and the names that other code bases use."""

from danet.weights.layouts import rename as rename
