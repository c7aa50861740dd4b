"""Networks that give the codes of a picture."""
