"""MirrorGAN: a picture from words and sentence, and the words back from the picture."""
