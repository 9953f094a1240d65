"""SESEMI's PolynomialLR: a linear warm-up from a rate of its own, then a power of what is left (SEEDS D25)."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class PolynomialLR(LambdaLR):
    """With W warm-up iterations: warmup_lr + (lr - warmup_lr) * s/W, then lr * (1 - (s-W)/(max-W))^lr_pow, then 0.

    Args:
        optimizer: Each of its groups follows from its own learning rate.
        max_iters: Where it ends.
        warmup_iters: W; or
        warmup_epochs: W in epochs of
        iters_per_epoch: iterations.
        warmup_lr: The rate of the first iteration.
        lr_pow: 1 is a straight line.
        last_epoch: Of a schedule that goes on.

    Raises:
        ValueError: W cannot be known, or lies behind `max_iters`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - SESEMI's own
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_iters: int | None = None,
        warmup_epochs: float | None = None,
        iters_per_epoch: int | None = None,
        warmup_lr: float = 0.0,
        lr_pow: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        if warmup_iters is None:
            if warmup_epochs is None or iters_per_epoch is None:
                raise ValueError("PolynomialLR: give warmup_iters, or warmup_epochs and iters_per_epoch.")
            warmup_iters = int(warmup_epochs * iters_per_epoch)
        if max_iters < warmup_iters:
            raise ValueError(f"PolynomialLR: max_iters={max_iters} is below the {warmup_iters} iterations of warm-up.")
        warm = warmup_iters

        def relative(lr: float) -> Callable[[int], float]:
            def factor(step: int) -> float:
                if step < warm:
                    rate = warmup_lr + (lr - warmup_lr) * step / warm
                else:
                    rate = lr * (1 - (step - warm) / (max_iters - warm)) ** lr_pow if step < max_iters else 0.0
                return rate / lr

            return factor

        bases = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer, [relative(float(base)) for base in bases], last_epoch)
