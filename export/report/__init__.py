"""The report of a build: one HTML page and its JSON."""
