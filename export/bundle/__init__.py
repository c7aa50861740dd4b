"""Bundles: their contents, writing, inspection and verification."""
