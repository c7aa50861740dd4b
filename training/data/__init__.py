"""Corpora on disk: records, splits, shards, batches."""
