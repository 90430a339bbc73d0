"""What a fit prints: scikit-learn's lines, or a bar."""

from __future__ import annotations

from typing import Any

__all__ = ["Progress"]


class Progress:
    """Prints every epoch to stdout, or moves a bar of tqdm on stderr.

    verbose: False or 0 for nothing, "progress" for the bar, else lines. epochs: that there may be.
    Raises ImportError for a bar without tqdm.
    """

    def __init__(self, verbose: Any, epochs: int) -> None:
        self._lines = bool(verbose) and verbose != "progress"
        self._bar: Any = None
        if verbose == "progress":
            try:
                from tqdm import tqdm
            except ImportError:
                raise ImportError(
                    "verbose: 'progress' needs tqdm: pip install 'gradstep[sklearn]'"
                ) from None
            self._bar = tqdm(total=epochs, unit="epoch")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def epoch(self, number: int, loss: float, validation: tuple[float, float] | None) -> None:
        """An epoch is over. validation: its (loss, score), if there is any."""
        if self._bar is not None:
            shown = {"loss": f"{loss:.4g}"}
            if validation is not None:
                shown["validation score"] = f"{validation[1]:.4f}"
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()
        elif self._lines:
            print(f"Iteration {number}, loss = {loss:.8f}")
            if validation is not None:
                print(f"Validation score: {validation[1]:f}")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._lines:
            print(text)
