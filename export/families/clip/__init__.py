"""CLIP: its text tower, its transformer blocks and its tokenizer."""
