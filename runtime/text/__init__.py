"""Prompts: the tokenizer and the check of its file."""
