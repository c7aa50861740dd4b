"""The report of a build: one HTML page, and the same data as JSON."""
