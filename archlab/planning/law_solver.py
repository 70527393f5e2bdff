"""Laws fitted to many samples at once, from given starts, in all their numbers, on the residuals of log L.

Shapes are those of `law_design`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archlab.planning.law_design import EXPONENTS, SMALLEST_TERM, Design, Floats, evaluate

_LEFT = 1e-9  # of the objective: the gain of a step below which a refinement ends
_ROUNDING = 1e-21  # of the objective, which is 0 where losses have no noise


@dataclass(frozen=True)
class Minimum:
    """Refined samples: unknowns [S, V], loss functions [S], and how far each is from a stationary point [S]."""

    theta_SV: Floats
    objective_S: Floats
    slope_S: Floats


def refine(design: Design, log_loss_SP: Floats, theta_SV: Floats, *, delta: float, iterations: int) -> Minimum:
    """Minimize the sum of Huber losses of log L by the method of Levenberg and Marquardt, all samples at once.

    `delta` is where the loss turns from squared to absolute; infinity is least squares. It is summed and not averaged:
    an average is so small that a tolerance ends the fit early, which was the mistake in the Chinchilla paper's
    ([Besiroglu et al. 2024](https://arxiv.org/abs/2404.10102)).
    """
    theta, damping = theta_SV.copy(), np.full(len(theta_SV), 1e-3)
    objective, gradient, hessian = _expand(design, log_loss_SP, theta, delta)
    for _ in range(iterations):
        step = _step(hessian, gradient, damping)
        if ((step * gradient).sum(1) <= _LEFT * (objective + _ROUNDING)).all():
            break
        proposal = _clip(theta + step)
        new = _expand(design, log_loss_SP, proposal, delta)
        better = new[0] <= objective
        theta = np.where(better[:, None], proposal, theta)
        gradient = np.where(better[:, None], new[1], gradient)
        hessian = np.where(better[:, None, None], new[2], hessian)
        objective = np.where(better, new[0], objective)
        damping = np.where(better, damping / 6, damping * 4).clip(1e-13, 1e8)
    # The gain of an undamped step relative to the objective: scale-free, and 0 where a bound stops the step.
    undamped = _clip(theta + _step(hessian, gradient, np.full(len(theta), 1e-10))) - theta
    gain = np.abs((undamped * gradient).sum(1))
    return Minimum(theta, objective, gain / (objective + _ROUNDING))


def _expand(design: Design, log_loss_SP: Floats, theta_SV: Floats, delta: float) -> tuple[Floats, Floats, Floats]:
    """Return objective [S], descent direction [S, V] and Gauss-Newton matrix [S, V, V]."""
    E, A, B = evaluate(theta_SV, design.x_P, design.z_P, design.candidate_P)
    law = E + A + B
    residual = log_loss_SP - np.log(law)
    size = np.abs(residual)
    near = np.minimum(size, delta)
    objective = (design.weight_P**2 * near * (size - near / 2)).sum(1)
    robust = near / np.maximum(size, 1e-300)
    jacobian = np.zeros((*law.shape, theta_SV.shape[1]))
    jacobian[..., 0] = -A * design.x_P * np.exp(theta_SV[:, 0, None]) / law
    jacobian[..., 1] = -B * design.z_P * np.exp(theta_SV[:, 1, None]) / law
    points = np.arange(law.shape[1])
    for offset, term in enumerate((E, A, B)):
        jacobian[:, points, 2 + 3 * design.candidate_P + offset] = term / law
    jacobian *= design.free_V
    weighted = jacobian * (design.weight_P**2 * robust)[..., None]
    return objective, np.einsum("spv,sp->sv", weighted, residual), weighted.transpose(0, 2, 1) @ jacobian


def _step(hessian_SVV: Floats, gradient_SV: Floats, damping_S: Floats) -> Floats:
    diagonal = np.einsum("svv->sv", hessian_SVV)
    added = damping_S[:, None] * diagonal + 1e-15 * diagonal.max(1, keepdims=True) + 1e-300
    damped = hessian_SVV + np.eye(hessian_SVV.shape[1]) * added[..., None]
    return np.linalg.solve(damped, gradient_SV[..., None])[..., 0].clip(-1, 1)


def _clip(theta_SV: Floats) -> Floats:
    low, high = np.log(EXPONENTS)
    return np.concatenate([theta_SV[:, :2].clip(low, high), theta_SV[:, 2:].clip(np.log(SMALLEST_TERM), None)], 1)
