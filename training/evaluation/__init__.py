"""Scores of a model: reconstruction, alignment, distances, contact sheets."""
