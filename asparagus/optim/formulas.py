"""Learning-rate schedules as pure functions of the step: ATOMMIC's and NeMo's annealing family, and Asparagus' own.

s: 0-based step, W: warm-up steps, M: max_steps, L: base learning rate, m: min_lr, s' = s - W, M' = M - W (SEEDS B16).
Unless a function says otherwise: L * (s+1)/(W+1) while W > 0 and s <= W, and m when s > M.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

START = 1e-3
"""With which share of L a warm-up of Asparagus begins (SEEDS A36)."""


@dataclass(frozen=True)
class Shape:
    """The numbers that every schedule depends on."""

    lr: float
    max_steps: float
    """`inf` for a training without an end."""
    warmup_steps: int = 0
    min_lr: float = 0.0
    is_decoder: bool = True
    """Whether these weights belong to what is new in a finetuning; only `sawtooth` asks."""


def constant(step: int, shape: Shape) -> float:
    """Warm up to L, then stay there for ever."""
    return _warming(step, shape) or shape.lr


def warmup(step: int, shape: Shape) -> float:
    """Warm up to L, then stay there, and m after M (WarmupPolicy)."""
    return _warming(step, shape) or _until_end(step, shape, shape.lr)


def warmup_hold(step: int, shape: Shape, *, hold_steps: int = 0) -> float:  # noqa: ARG001 - nothing follows the hold
    """Do as `warmup`: what is held is what would be there anyway (WarmupHoldPolicy)."""
    return warmup(step, shape)


def cosine(step: int, shape: Shape, *, constant_steps: int = 0) -> float:
    """Warm up, then m + (L - m) * (1 + cos(pi * s'/M')) / 2 (CosineAnnealing).

    Args:
        step: s.
        shape: Of the training.
        constant_steps: C, so many steps at the end stay at m. The warm-up is then L * s/W, and the cosine has M - C - W
            steps.
    """
    if not constant_steps:
        return _warming(step, shape) or _decay(step, shape, _half_cosine)
    if step < shape.warmup_steps:
        return shape.lr * step / shape.warmup_steps
    length = shape.max_steps - constant_steps - shape.warmup_steps
    done = (step - shape.warmup_steps) / length if length > 0 else 1.0
    return shape.min_lr + (shape.lr - shape.min_lr) * (_half_cosine(done) if done < 1 else 0.0)


def linear(step: int, shape: Shape) -> float:
    """Warm up, then m + (L - m) * (1 - s'/M') (WarmupAnnealing)."""
    return polynomial(step, shape)


def polynomial(step: int, shape: Shape, *, power: float = 1.0) -> float:
    """Warm up, then m + (L - m) * (1 - s'/M')^power (PolynomialDecayAnnealing)."""
    return _warming(step, shape) or _decay(step, shape, lambda done: (1 - done) ** power)


def polynomial_hold(step: int, shape: Shape, *, hold_steps: int = 0, power: float = 1.0) -> float:
    """Warm up, stay at L for `hold_steps`, then decay as `polynomial` over what is left (PolynomialHoldDecay)."""
    held = shape.warmup_steps + hold_steps
    if (warming := _warming(step, shape)) is not None:
        return warming
    if step < held:
        return _until_end(step, shape, shape.lr)
    return _decay(step, shape, lambda done: (1 - done) ** power, begin=held)


def square(step: int, shape: Shape) -> float:
    """Warm up, then max(m, L * ((M' - s')/M')^2) (SquareAnnealing)."""
    return _warming(step, shape) or max(shape.min_lr, shape.lr * _left(step, shape, shape.warmup_steps) ** 2)


def square_root(step: int, shape: Shape) -> float:
    """Warm up, then max(m, L * sqrt((M - s)/M)): without W, as it is upstream (SquareRootAnnealing)."""
    return _warming(step, shape) or max(shape.min_lr, shape.lr * math.sqrt(_left(step, shape, 0)))


def inverse_square_root(step: int, shape: Shape) -> float:
    """Warm up, then L / sqrt((s+1)/(W+1)) (InverseSquareRootAnnealing)."""
    decayed = shape.lr / math.sqrt((step + 1) / (shape.warmup_steps + 1))
    return _warming(step, shape) or _until_end(step, shape, decayed)


def t5_inverse_square_root(step: int, shape: Shape, *, constant_steps: int) -> float:
    """Return 1 / sqrt(max(s, C)), whatever L is: T5's, as NeMo and ATOMMIC have it (T5InverseSquareRootAnnealing).

    Args:
        step: s.
        shape: Of the training.
        constant_steps: C, for so many steps the rate is 1 / sqrt(C) (Raffel et al. 2020, section 3.1.2: 10^4).

    Raises:
        ValueError: C is below 1, or there is a warm-up, which this schedule does not have.
    """
    if constant_steps < 1 or shape.warmup_steps:
        raise ValueError("it needs constant_steps or constant_ratio, of 1 step at least, and has no warm-up")
    return _until_end(step, shape, max(step, constant_steps) ** -0.5)


def noam(step: int, shape: Shape, *, d_model: int) -> float:
    """Return L * d^-0.5 * min(s^-0.5, s * W^-1.5), at least m after W, where s is at least 1 (NoamAnnealing).

    Args:
        step: s.
        shape: Of the training. Without a warm-up the minimum is s^-0.5.
        d_model: d, the width of the model ("Attention is all you need", 5.3).
    """
    step, warm = max(1, step), shape.warmup_steps
    factor = min(step**-0.5, step * warm**-1.5) if warm else step**-0.5
    rate = shape.lr * d_model**-0.5 * factor
    return _until_end(step, shape, max(rate, shape.min_lr) if step > warm else rate)


def noam_hold(step: int, shape: Shape, *, decay_rate: float = 0.5, hold_steps: int = 0) -> float:
    """Warm up, hold L, then max(m, L * max(1, W^r) / max(1, (s-H)^r)) with r = decay_rate (NoamHoldAnnealing).

    Raises:
        ValueError: There is no warm-up, and all of it would be measured in that.
    """
    if shape.warmup_steps == 0:
        raise ValueError("noam_hold needs warmup_steps or warmup_ratio above 0")
    if (warming := _warming(step, shape)) is not None:
        return warming
    if step < shape.warmup_steps + hold_steps:
        return _until_end(step, shape, shape.lr)
    factor = max(1.0, shape.warmup_steps**decay_rate) / max(1.0, (step - hold_steps) ** decay_rate)
    return _until_end(step, shape, max(shape.min_lr, shape.lr * factor))


def warmup_cosine(step: int, shape: Shape) -> float:
    """Rise linearly from L/1000 to L over W steps, then follow the cosine to m (SEEDS A36)."""
    if step < shape.warmup_steps:
        return shape.lr * _rising(step / shape.warmup_steps)
    return _decay(step, shape, _half_cosine)


def sawtooth(step: int, shape: Shape, *, decoder_warmup_steps: int = 0) -> float:
    """Warm up what is new alone, then all of it, then follow the cosine to m: for finetuning (SEEDS A36).

    For D = decoder_warmup_steps the decoder rises linearly from L/1000 to L, and the pretrained rest has 0. Then both
    rise from L/1000 to L over W steps and follow the cosine over the M - D - W that are left.
    """
    if step < decoder_warmup_steps:
        return shape.lr * _rising(step / decoder_warmup_steps) if shape.is_decoder else 0.0
    rest = Shape(shape.lr, shape.max_steps - decoder_warmup_steps, shape.warmup_steps, shape.min_lr)
    return warmup_cosine(step - decoder_warmup_steps, rest)


def _warming(step: int, shape: Shape) -> float | None:
    """Return L * (s+1)/(W+1) while W > 0 and s <= W, then None."""
    if shape.warmup_steps > 0 and step <= shape.warmup_steps:
        return shape.lr * (step + 1) / (shape.warmup_steps + 1)
    return None


def _rising(done: float) -> float:
    """Return the share of L after a share of a warm-up: torch's LinearLR from `START` to 1."""
    return START + (1 - START) * done


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _until_end(step: int, shape: Shape, rate: float) -> float:
    return shape.min_lr if step > shape.max_steps else rate


def _left(step: int, shape: Shape, begin: int) -> float:
    """Return the share of the steps from `begin` to M that is left; none after M."""
    length = shape.max_steps - begin
    return max(0.0, shape.max_steps - step) / length if length > 0 else 0.0


def _decay(step: int, shape: Shape, curve: Callable[[float], float], begin: int | None = None) -> float:
    """Return m + (L - m) * curve(share of the steps from `begin` to M that is done), and m after M."""
    begin = shape.warmup_steps if begin is None else begin
    length = shape.max_steps - begin
    if step > shape.max_steps or length <= 0:
        return shape.min_lr
    return shape.min_lr + (shape.lr - shape.min_lr) * curve((step - begin) / length)
