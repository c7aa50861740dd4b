"""The model to export, from where a user names it: a checkpoint, a Python file, or published weights."""
