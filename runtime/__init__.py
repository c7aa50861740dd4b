"""Draw pictures from prompts with an exported bundle: numpy, tokenizers and one backend."""
