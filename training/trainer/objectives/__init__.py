"""The objectives of the phases, and their loss terms."""
