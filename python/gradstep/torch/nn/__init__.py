"""torch's dropout and normalisation, as functions and modules, with native kernels."""
