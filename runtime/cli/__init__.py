"""The command tv-generate."""
