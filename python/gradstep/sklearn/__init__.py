"""Multilayer perceptrons for users of scikit-learn: `pip install 'gradstep[sklearn]'`.

`MLPClassifier` and `MLPRegressor` stand in for scikit-learn's; `accelerate_mlp` makes its own ones
faster for as long as a block lasts.

>>> import numpy as np
>>> from gradstep.sklearn import MLPClassifier
>>> X, y = np.eye(4), [0, 1, 0, 1]
>>> model = MLPClassifier((8,), learning_rate_init=0.1, random_state=0).fit(X, y)
>>> model.predict(X)
array([0, 1, 0, 1])
"""

from gradstep.sklearn.acceleration import accelerate_mlp
from gradstep.sklearn.classifier import MLPClassifier
from gradstep.sklearn.fitting import Epoch
from gradstep.sklearn.regressor import MLPRegressor

__all__ = ["Epoch", "MLPClassifier", "MLPRegressor", "accelerate_mlp"]
