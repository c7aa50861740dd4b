"""The emoji art corpus: from npm packages to captioned pictures."""
