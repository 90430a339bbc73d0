"""The optimizers for PyTorch: torch's classes, and Lion, with gradstep's native step."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from gradstep.optim import optimizers as formulas
from gradstep.optim.hyperparameters import check_hyperparameter
from gradstep.torch.optim.groups import check_flags, plain
from gradstep.torch.optim.optimizer import NativeOptimizer
from gradstep.torch.optim.participants import Participants

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "SparseAdam",
]


class SGD(NativeOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` on gradstep's kernels: momentum, dampening and Nesterov's look-ahead.

    Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013.

    >>> import torch, gradstep.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> opt = gradstep.torch.SGD([w], lr=0.5)
    >>> w.sum().backward()
    >>> opt.step()
    >>> w.data
    tensor([0.5000, 1.5000])
    """

    FORMULA: ClassVar = formulas.SGD
    NUMBERS: ClassVar[tuple[str, ...]] = ()
    SPARSE: ClassVar[bool] = True

    @classmethod
    def _moves_all(cls, group: dict[str, Any]) -> bool:
        return bool(group["momentum"] != 0)

    @classmethod
    def _effective(cls, group: dict[str, Any]) -> dict[str, Any]:
        # torch asks for the momentum first, so that it may be switched off for a while.
        return {**group, "nesterov": group["nesterov"] and group["momentum"] != 0}


class Adagrad(NativeOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad` on gradstep's kernels. Duchi, Hazan & Singer 2011."""

    FORMULA: ClassVar = formulas.Adagrad
    SPARSE: ClassVar[bool] = True


class RMSprop(NativeOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop` on gradstep's kernels. Hinton 2012; centered: Graves 2013."""

    FORMULA: ClassVar = formulas.RMSprop


class Adadelta(NativeOptimizer, torch.optim.Adadelta):
    """`torch.optim.Adadelta` on gradstep's kernels. Zeiler 2012 (arXiv:1212.5701)."""

    FORMULA: ClassVar = formulas.Adadelta


class Adam(NativeOptimizer, torch.optim.Adam):
    """`torch.optim.Adam` on gradstep's kernels.

    Kingma & Ba 2015 (arXiv:1412.6980); amsgrad: Reddi et al. 2018 (arXiv:1904.09237).

    >>> import torch, gradstep.torch
    >>> model = torch.nn.Linear(3, 1)
    >>> opt = gradstep.torch.Adam(model.parameters(), lr=0.1, clip_norm=1.0)
    >>> (10 * model(torch.ones(1, 3))).sum().backward()
    >>> opt.step()
    >>> opt.grad_norm
    20.0
    """

    FORMULA: ClassVar = formulas.Adam


class AdamW(NativeOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW` on gradstep's kernels. Loshchilov & Hutter 2019 (arXiv:1711.05101)."""

    FORMULA: ClassVar = formulas.AdamW


class NAdam(NativeOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam` on gradstep's kernels. Dozat 2016.

    The product of the momenta is that of the present beta1 and momentum_decay, where torch keeps
    the product of those along the way: the same unless they change during training.
    """

    FORMULA: ClassVar = formulas.NAdam
    NUMBERS: ClassVar[tuple[str, ...]] = ("step", "mu_product")

    def _count(self, participants: Participants, present: list[int] | None) -> None:
        super()._count(participants, present)
        products = participants.numbers["mu_product"]
        values, steps = products.values, participants.numbers["step"].values
        for i in range(len(values)) if present is None else present:
            h = self._scalars[participants.members[i].group]
            values[i] *= h["beta1"] * (1 - 0.5 * 0.96 ** (steps[i] * h["momentum_decay"]))
        products.write(values)


class Adamax(NativeOptimizer, torch.optim.Adamax):
    """`torch.optim.Adamax` on gradstep's kernels. Kingma & Ba 2015, section 7.1."""

    FORMULA: ClassVar = formulas.Adamax


class RAdam(NativeOptimizer, torch.optim.RAdam):
    """`torch.optim.RAdam` on gradstep's kernels. Liu et al. 2020 (arXiv:1908.03265)."""

    FORMULA: ClassVar = formulas.RAdam


class SparseAdam(NativeOptimizer, torch.optim.SparseAdam):
    """`torch.optim.SparseAdam` on gradstep's kernels: Adam for the rows that a gradient has.

    Only for sparse gradients, as of `torch.nn.Embedding(..., sparse=True)`. The moments of other
    rows stay as they are, and eps is not corrected for the start as it is in Adam.

    >>> import torch, gradstep.torch
    >>> table = torch.nn.Embedding(4, 2, sparse=True)
    >>> opt = gradstep.torch.SparseAdam(table.parameters(), lr=0.5)
    >>> before = table.weight.detach().clone()
    >>> table(torch.tensor([1, 3, 1])).sum().backward()
    >>> opt.step()
    >>> (table.weight.detach() - before).round(decimals=4).tolist()
    [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0], [-0.5, -0.5]]
    """

    FORMULA: ClassVar = formulas.Adam
    SPARSE: ClassVar[bool] = True
    OPTIONAL: ClassVar[tuple[str, ...]] = ("maximize",)

    def _row_scalars(self, group: dict[str, Any], t: int) -> dict[str, float]:
        scalars = super()._row_scalars(group, t)
        scalars["eps"] /= math.sqrt(1 - scalars["beta2"] ** t)
        return scalars

    def _gather(
        self, params: list[Any], grads: list[Any], groups: list[dict[str, Any]]
    ) -> Participants:
        for member in self._members([g is not None for g in grads]):
            raise TypeError(
                f"{member.label}.grad: dense, expected a sparse gradient; use gradstep.torch.Adam"
            )
        return super()._gather(params, grads, groups)


class Lion(NativeOptimizer):
    """Lion, which torch does not have: the sign of an interpolated momentum.

    Chen et al. 2023 (arXiv:2302.06675). Arguments are called as in torch's classes, and the one
    state array `exp_avg`, as in the authors' code.

    >>> import torch, gradstep.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> opt = gradstep.torch.Lion([w], lr=0.25)
    >>> w.grad = torch.tensor([1e-9, 0.0])
    >>> opt.step()
    >>> w.data
    tensor([0.7500, 1.0000])
    """

    FORMULA: ClassVar = formulas.Lion
    NUMBERS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **extra: Any,
    ) -> None:
        for key, value in {"lr": lr, "betas": betas, "weight_decay": weight_decay}.items():
            default = self.FORMULA.default(key)
            check_hyperparameter(key, plain(key, value, default), default)
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        check_flags(defaults, "")
        super().__init__(params, defaults, **extra)
        if fused:  # as in torch's classes
            self._step_supports_amp_scaling = True
