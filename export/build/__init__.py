"""A build: its options, its steps, and the processes that work for it."""
