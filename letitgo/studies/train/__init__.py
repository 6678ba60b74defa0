"""One run, with some of the network frozen."""
