"""The machine that a build runs on: cores, garbage collection, the cache of steps."""
