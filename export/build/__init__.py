"""`tv-export build`: the steps from a checkpoint to a bundle, and the processes that share them."""
