"""Recipes: strict pydantic models, one file per part of the way; `load.read_recipe` is the entrance."""
