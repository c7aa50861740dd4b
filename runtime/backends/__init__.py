"""One file per inference library, one protocol for all of them."""
