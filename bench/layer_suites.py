"""The works of the suites of layers."""

from __future__ import annotations

from .layers import Layer

__all__ = ["activations", "between", "dropout", "norms", "threads"]

SMALL, LARGE = 65_536, 1 << 24
IMAGES = (64, 64, 56, 56)  # early in ResNet-50, batch 64
LATE_IMAGES = (32, 256, 14, 14)
MILLION = (64, 256, 8, 8)
FEATURES = (128, 512)
TOKENS, FEW_TOKENS = (4096, 1024), (64, 256)
TABLES = (256, 1024), (16_384, 1024)
CLASSES, FEW_CLASSES = (8192, 1000), (10, 100)
CACHED_ROWS, ROWS = (128, 256), (8192, 768)  # between the layers of a transformer


def both(function: str, shape: tuple[int, ...], **fields: object) -> list[Layer]:
    """Forward and backward."""
    names = (function, f"{function}_backward")
    return [Layer(name, shape, **fields) for name in names]  # type: ignore[arg-type]


def dropout(sizes: tuple[int, ...] | None, quick: bool) -> list[Layer]:
    """Dropout by element, in place and not, and its relatives.

    sizes: in place of 65 536 and 16 777 216.
    """
    works: list[Layer] = []
    for n in sizes or (SMALL, LARGE):
        works.append(Layer("dropout", (n,)))
        if not quick:
            works.append(Layer("dropout", (n,), in_place=True))
            works.append(Layer("dropout_backward", (n,)))
    if quick:
        return works
    works.append(Layer("dropout_mask", (1 << 20,)))
    for function in ("alpha_dropout", "drop_connect"):
        works += both(function, (1024, 1024))
    for function in ("spatial_dropout", "drop_path"):
        works += both(function, MILLION)
    return works


def norms(sizes: tuple[int, ...] | None, quick: bool) -> list[Layer]:
    """Batch norm in training and inference, in all memory orders, and its relatives."""
    works = both("batch_norm", IMAGES)
    works += [Layer("batch_norm", shape) for shape in (LATE_IMAGES, FEATURES)]
    if quick:
        return works
    works += [Layer("batch_norm_backward", shape) for shape in (LATE_IMAGES, FEATURES)]
    n, c, *space = IMAGES
    works += both("batch_norm", (n, *space, c), keywords={"axis": -1}, note="channels last")
    for shape in (IMAGES, FEATURES):
        works.append(Layer("batch_norm", shape, {"training": False}, "inference"))
    works.append(Layer("batch_norm", IMAGES, in_place=True))
    works.append(Layer("batch_norm_stats", IMAGES))
    for shape in (TOKENS, FEW_TOKENS):
        works += both("layer_norm", shape) + both("rms_norm", shape)
    for shape in (CACHED_ROWS, ROWS):
        works += both("layer_norm", shape)
    return works + both("group_norm", LATE_IMAGES) + both("instance_norm", LATE_IMAGES)


def activations(sizes: tuple[int, ...] | None, quick: bool) -> list[Layer]:
    """Activations and losses on little and much data.

    sizes: of the functions by element, in place of 1 000 and 16 777 216.
    """
    if quick:
        n = (sizes or (1 << 20,))[0]
        quickly = [Layer("relu", (n,)), Layer("gelu", (n,), {"approximate": "tanh"}, "tanh")]
        return [*quickly, Layer("softmax", CLASSES), Layer("cross_entropy", CLASSES)]
    works: list[Layer] = []
    for n in sizes or (1_000, LARGE):
        for function in ("relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "selu", "mish"):
            works += both(function, (n,))
        works += both("gelu", (n,), keywords={"approximate": "tanh"}, note="tanh")
        works.append(Layer("relu", (n,), in_place=True))
        works.append(Layer("mse", (n,)))
    for shape in (CACHED_ROWS, ROWS):
        works += both("gelu", shape) + both("tanh", shape)
    for shape in (FEW_CLASSES, CACHED_ROWS, ROWS, CLASSES):
        works += both("softmax", shape) + both("log_softmax", shape)
    for shape in (FEW_CLASSES, CLASSES):
        works.append(Layer("cross_entropy", shape))
    return works + both("prelu", MILLION) + both("maxout", MILLION)


def threads(sizes: tuple[int, ...], quick: bool) -> list[Layer]:
    """One of each kind, on data that fit the caches and on data that do not."""
    works = [Layer("dropout", (n,)) for n in sizes]
    works.append(Layer("batch_norm", LATE_IMAGES))
    if quick:
        return works
    works += [Layer(name, (n,)) for name in ("relu", "silu") for n in sizes]
    works += [Layer("batch_norm_backward", LATE_IMAGES), *both("batch_norm", IMAGES)]
    return works + [Layer(name, shape) for name in ("layer_norm", "softmax") for shape in TABLES]


def between(sizes: tuple[int, ...]) -> list[Layer]:
    """Dropout, layer norm on whole rows of at most 512, gelu."""
    rows = [(max(1, n // 512), min(n, 512)) for n in sizes]
    return [
        *(Layer("dropout", (n,)) for n in sizes),
        *(Layer("layer_norm", shape) for shape in rows),
        *(Layer("gelu", (n,)) for n in sizes),
    ]
