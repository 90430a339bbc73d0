"""The specification: what the native functions and steps compute, in NumPy alone.

Native results equal these to the bit, but for exp, log and tanh, which differ by a few ULP. An
optimizer's formula stands beside its hyperparameters in `gradstep.optim.optimizers`.
"""
