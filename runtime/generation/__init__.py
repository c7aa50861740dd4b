"""The steps of a generation: arguments, stages, encoded text."""
