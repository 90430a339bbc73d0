"""Without scikit-learn, these tests are not collected."""

from __future__ import annotations

import importlib.util

HAS_SKLEARN = importlib.util.find_spec("sklearn") is not None
collect_ignore_glob = [] if HAS_SKLEARN else ["*.py"]
