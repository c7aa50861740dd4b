"""Models to export: their stages, batches of tensors, prompts."""
