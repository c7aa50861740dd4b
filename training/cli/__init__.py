"""The commands of tv-train."""
