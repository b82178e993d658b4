"""Annotations of other tools, read as masks."""
