"""The checks of each layer: exact, tables, stages, whole pictures, and golden pictures."""
