"""Graph rewrites that change no result."""
