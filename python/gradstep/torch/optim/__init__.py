"""torch's optimizers with a native step."""
