"""The commands of tv-export."""
