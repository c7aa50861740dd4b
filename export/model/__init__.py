"""The models to export: their stages, reference batches and prompts."""
