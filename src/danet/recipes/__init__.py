"""Recipes: one YAML file a run, each naming where its settings come from."""
