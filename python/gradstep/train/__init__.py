"""`gradstep train`: data, the loop, the search for a rate, and what is shown of a run."""
