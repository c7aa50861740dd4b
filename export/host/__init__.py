"""The machine that runs a build: processes, threads, garbage collection and the cache of steps."""
