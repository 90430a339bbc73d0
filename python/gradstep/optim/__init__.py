"""The optimizers: hyperparameters, schedules, groups, steps, state, and looking at gradients."""
