"""Arrays as people keep them: one, a sequence, a mapping, or these nested."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
# The name of an array in its tree: None for a lone array, its index in a flat sequence, else the
# path of keys and indices joined by dots.
Name: TypeAlias = str | int | None
Tree: TypeAlias = Any

__all__ = ["Array", "Name", "Tree", "bfloat16", "flatten", "is_branch", "leaves_like", "rebuilt"]


def is_branch(tree: Tree) -> bool:
    return isinstance(tree, (list, tuple, Mapping))


def listed(tree: Tree) -> Tree:
    """A list in place of what can be walked only once, and of the values of a mapping."""
    return list(tree) if isinstance(tree, (Iterator, ValuesView)) else tree


def _items(tree: Tree) -> list[tuple[Any, Tree]]:
    return list(tree.items() if isinstance(tree, Mapping) else enumerate(tree))


def _name(prefix: Name, key: Any) -> Name:
    if prefix is not None:
        return f"{prefix}.{key}"
    return key if isinstance(key, int) else str(key)


def label(argument: str, name: Name) -> str:
    """What messages call an array."""
    return argument if name is None else f"{argument}[{name!r}]"


def as_array(leaf: Any, argument: str = "tree", name: Name = None) -> Any:
    """The leaf, or the NumPy view of it when it is another library's array.

    Anything that is not an array passes through: the boundary names it in its error. Raises
    TypeError for an array that cannot be exported, or whose memory does not hold its elements.
    """
    if isinstance(leaf, np.ndarray) or not hasattr(leaf, "__dlpack__"):
        return leaf
    what = f"{label(argument, name)}: {type(leaf).__name__}"
    # torch's export leaves this out, and the sign with it.
    is_neg = getattr(leaf, "is_neg", None)
    if is_neg is not None and is_neg():
        raise TypeError(f"{what} that is lazily negated, expected memory; use .resolve_neg()")
    if not _is_memory(type(leaf)):
        raise TypeError(f"{what} with operators of its own, expected a numpy.ndarray")
    # NumPy does not take torch's bfloat16, but its bits; of what has a gradient it says so first.
    halves = str(getattr(leaf, "dtype", "")) == "torch.bfloat16" and not leaf.requires_grad
    try:
        array = np.from_dlpack(leaf.view(sys.modules["torch"].int16) if halves else leaf)
    except Exception as error:
        raise TypeError(
            f"{what} that cannot be imported ({error}), expected a numpy.ndarray"
        ) from error
    # For a null pointer NumPy takes memory of its own, whatever is in it.
    if array.size and array.flags.owndata:
        raise TypeError(f"{what} without memory, expected elements that are stored")
    return array.view(bfloat16(f"{what} of bfloat16")) if halves else array


def bfloat16(what: str) -> np.dtype[Any]:
    """NumPy's dtype for bfloat16. Raises ImportError, naming `what`, without its package."""
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            f"{what} needs ml_dtypes, which is not installed: pip install 'gradstep[bfloat16]'"
        ) from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _is_memory(kind: type) -> bool:
    """Whether operators see the memory as it is: not where __torch_dispatch__ is overridden."""
    exporter = next((each for each in kind.__mro__ if "__dlpack__" in vars(each)), kind)
    dispatch = "__torch_dispatch__"
    return getattr(kind, dispatch, None) is getattr(exporter, dispatch, None)


def flatten(
    tree: Tree, argument: str = "tree", prefix: Name = None
) -> tuple[list[Name], list[Any]]:
    """Names and arrays of a tree, in order. argument: what an error calls the tree.

    >>> import numpy as np
    >>> flatten({"w": np.ones(2), "layers": [np.zeros(1), np.zeros(3)]})[0]
    ['w', 'layers.0', 'layers.1']
    """
    tree = listed(tree) if prefix is None else tree
    if not is_branch(tree):
        return [prefix], [as_array(tree, argument, prefix)]
    names: list[Name] = []
    leaves: list[Any] = []
    for key, branch in _items(tree):
        branch_names, branch_leaves = flatten(branch, argument, _name(prefix, key))
        names += branch_names
        leaves += branch_leaves
    return names, leaves


def check_names(names: Sequence[Name], argument: str) -> None:
    """Raises ValueError if two arrays have one name, as those of {"a.b": x, "a": {"b": y}}."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{argument}[{twice[0]!r}]: two arrays of this name, expected one")


def leaves_like(shape: Tree, tree: Tree, argument: str, model: str = "params") -> list[Any]:
    """The leaves of `tree`, which must branch as `shape` does, in the order of `shape`.

    argument, model: what errors call them.
    """
    if not is_branch(shape):
        return [tree]
    tree = listed(tree)
    if isinstance(shape, Mapping):
        if not isinstance(tree, Mapping):
            raise TypeError(f"{argument}: {type(tree).__name__}, expected a mapping like {model}")
        missing = [key for key in shape if key not in tree]
        unknown = [key for key in tree if key not in shape]
        if missing or unknown:
            what = f"no {missing[0]!r}" if missing else f"an unknown {unknown[0]!r}"
            raise ValueError(f"{argument}: {what}, expected the keys of {model}")
    else:
        if not isinstance(tree, (list, tuple)):
            raise TypeError(f"{argument}: {type(tree).__name__}, expected a sequence like {model}")
        if len(tree) != len(shape):
            what = f"{len(tree)} entries, expected {len(shape)} as in {model}"
            raise ValueError(f"{argument}: {what}")
    leaves: list[Any] = []
    for key, branch in _items(shape):
        if is_branch(branch):
            leaves += leaves_like(branch, tree[key], f"{argument}[{key!r}]", model)
        else:
            leaves.append(tree[key])
    return leaves


def skeleton(tree: Tree) -> Tree:
    """The branching of a tree without its arrays."""
    if isinstance(tree, Mapping):
        return {key: skeleton(branch) for key, branch in tree.items()}
    if isinstance(tree, Sequence) and is_branch(tree):
        return [skeleton(branch) for branch in tree]
    return None


def rebuilt(tree: Tree, leaves: Sequence[Array]) -> Tree:
    """The branching of a tree, with lists for sequences, over other leaves."""
    remaining = iter(leaves)

    def build(branch: Tree) -> Tree:
        if isinstance(branch, Mapping):
            return {key: build(value) for key, value in branch.items()}
        if isinstance(branch, (list, tuple)):
            return [build(value) for value in branch]
        return next(remaining)

    return build(tree)
