"""Generate in a child process with limits, for bundles from unknown sources."""
