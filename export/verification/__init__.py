"""Verification of a bundle: exact checks, tables, stages, and whole pictures."""
