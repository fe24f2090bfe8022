"""Gymnasium's classic control as torch code, with its dynamics, rewards and limits."""

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wnrl.tensor_envs.core import Fixed, State


def _box(*high: float, low: tuple[float, ...] | None = None) -> spaces.Box:
    top = np.array(high, np.float32)
    return spaces.Box(-top if low is None else np.array(low, np.float32), top, dtype=np.float32)


class CartPole(Fixed):
    """``CartPole-v1``: a pole on a cart that is pushed left or right (Barto et al., 1983)."""

    X_LIMIT = 2.4
    ANGLE_LIMIT = 12 * 2 * math.pi / 360
    observation_space = _box(2 * X_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf)
    action_space = spaces.Discrete(2)
    max_episode_steps = 500
    reset_draws = 4

    def reset(self, u: Tensor) -> State:
        """Return positions, velocities, angles and angular velocities within 0.05 of zero."""
        return {"x": u * 0.1 - 0.05}

    def observe(self, state: State) -> Tensor:
        """Return the state, ``(*B, 4)``."""
        return state["x"].clone()

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Push with 10 N for 0.02 s; the reward is 1."""
        x = state["x"]
        _, speed, angle, spin = x.unbind(-1)
        sin, cos = angle.sin(), angle.cos()
        force = actions.to(x.dtype) * 20 - 10
        push = torch.addcmul(force, spin.square(), sin, value=0.05) / 1.1
        torque = torch.addcmul(sin * 9.8, cos, push, value=-1)
        spin_rate = torque / (4 / 6 - cos.square() * (0.05 / 1.1))
        speed_rate = torch.addcmul(push, spin_rate, cos, value=-0.05 / 1.1)
        x = x.add(torch.stack((speed, speed_rate, spin, spin_rate), -1), alpha=0.02)
        fallen = x[..., 2].abs() > self.ANGLE_LIMIT
        return {"x": x}, torch.ones_like(push), fallen | (x[..., 0].abs() > self.X_LIMIT)


class Acrobot(Fixed):
    """``Acrobot-v1``: two links, the joint between them driven (Sutton, 1996).

    The equations are those of Sutton & Barto's book with Gymnasium's lengths, masses and moments of
    inertia, all 1 or 0.5, put in; one fourth-order Runge-Kutta step is 0.2 s.
    """

    MAX_SPIN = (4 * math.pi, 9 * math.pi)
    observation_space = _box(1, 1, 1, 1, *MAX_SPIN)
    action_space = spaces.Discrete(3)
    max_episode_steps = 500
    reset_draws = 4

    def reset(self, u: Tensor) -> State:
        """Return two angles and two angular velocities within 0.1 of zero: hanging at rest."""
        return {"x": u * 0.2 - 0.1}

    def observe(self, state: State) -> Tensor:
        """Return cosine and sine of each angle and the angular velocities, ``(*B, 6)``."""
        angles, spins = state["x"].split(2, dim=-1)
        return torch.cat((torch.stack((angles.cos(), angles.sin()), -1).flatten(-2), spins), -1)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Turn the joint with -1, 0 or 1 Nm; the reward is -1 until the tip is 1 m up, then 0."""
        x = state["x"].movedim(-1, 0).contiguous()  # (*B, 4) -> (4, *B): sines take half the time
        torque, dt = actions.to(x.dtype) - 1, 0.2
        slopes = [_acrobot_slope(x, torque)]
        for share in (0.5, 0.5, 1.0):
            slopes.append(_acrobot_slope(x.add(slopes[-1], alpha=share * dt), torque))
        inner = (slopes[1] + slopes[2]).mul_(2).add_(slopes[0]).add_(slopes[3])
        first, second, first_spin, second_spin = x.add(inner, alpha=dt / 6).unbind()
        first, second = _wrapped(first), _wrapped(second)
        top_1, top_2 = self.MAX_SPIN
        spins = (first_spin.clamp(-top_1, top_1), second_spin.clamp(-top_2, top_2))
        terminated = first.cos() + (first + second).cos() < -1
        rewards = terminated.to(x.dtype) - 1
        return {"x": torch.stack((first, second, *spins), -1)}, rewards, terminated


def _acrobot_slope(x: Tensor, torque: Tensor) -> Tensor:
    """Return the time derivative of both angles and angular velocities, ``(4, *B)``."""
    first, second, first_spin, second_spin = x.unbind()
    sin, cos = second.sin(), second.cos()
    d1, d2 = cos + 3.5, cos * 0.5 + 1.25
    ratio = d2 / d1
    phi2 = (first + second).sin() * 4.9
    swing = second_spin * first_spin.add(second_spin, alpha=0.5)
    phi1 = torch.addcmul(phi2.add(first.sin(), alpha=14.7), sin, swing, value=-1)
    drive = torch.addcmul(torque - phi2, ratio, phi1)
    drive = torch.addcmul(drive, first_spin.square(), sin, value=-0.5)
    second_rate = drive / (1.25 - d2 * ratio)
    first_rate = -torch.addcmul(phi1, d2, second_rate) / d1
    return torch.stack((first_spin, second_spin, first_rate, second_rate))


def _wrapped(angle: Tensor) -> Tensor:
    """Return an angle within -π and π."""
    return angle - (angle / (2 * math.pi)).round() * (2 * math.pi)


class _Valley(Fixed):
    """A car between two hills: what both mountain cars share."""

    LEFT_END = -1.2
    MAX_SPEED = 0.07
    observation_space = _box(0.6, MAX_SPEED, low=(LEFT_END, -MAX_SPEED))
    reset_draws = 1

    def reset(self, u: Tensor) -> State:
        """Return a place in the valley, between -0.6 and -0.4, at rest."""
        position = u[..., 0] * 0.2 - 0.6
        return {"position": position, "velocity": torch.zeros_like(position)}

    def observe(self, state: State) -> Tensor:
        """Return position and velocity, ``(*B, 2)``."""
        return torch.stack((state["position"], state["velocity"]), -1)

    def _roll(self, state: State, push: Tensor, goal: float) -> tuple[State, Tensor]:
        """Return the state after one step, and whether the goal was reached."""
        velocity = state["velocity"] + push - 0.0025 * (3 * state["position"]).cos()
        velocity = velocity.clamp(-self.MAX_SPEED, self.MAX_SPEED)
        position = (state["position"] + velocity).clamp(self.LEFT_END, 0.6)
        at_wall = (position <= self.LEFT_END) & (velocity < 0)
        velocity = velocity.masked_fill(at_wall, 0)
        return {"position": position, "velocity": velocity}, (position >= goal) & (velocity >= 0)


class MountainCar(_Valley):
    """``MountainCar-v0``: too weak for the hill, it has to swing (Moore, 1990)."""

    action_space = spaces.Discrete(3)
    max_episode_steps = 200

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Push left, not at all or right; the reward is -1."""
        push = (actions.to(state["velocity"].dtype) - 1) * 0.001
        state, terminated = self._roll(state, push, goal=0.5)
        return state, torch.full_like(push, -1), terminated


class MountainCarContinuous(_Valley):
    """``MountainCarContinuous-v0``: the same with a force, a goal at 0.45 and a cost of force.

    Gymnasium rounds its state to float32 after each step; here it has the precision of the draws.
    """

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    max_episode_steps = 999

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Push with at most 1; the reward is 100 at the goal less 0.1 force², clipped or not."""
        force = actions[..., 0]
        state, terminated = self._roll(state, force.clamp(-1, 1) * 0.0015, goal=0.45)
        return state, terminated * 100 - force.square() * 0.1, terminated


class Pendulum(Fixed):
    """``Pendulum-v1``: a pendulum that is to be swung up and held with a small torque."""

    MAX_SPIN = 8.0
    MAX_TORQUE = 2.0
    observation_space = _box(1, 1, MAX_SPIN)
    action_space = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
    max_episode_steps = 200
    reset_draws = 2

    def reset(self, u: Tensor) -> State:
        """Return any angle, and an angular velocity within -1 and 1."""
        return {"angle": (u[..., 0] * 2 - 1) * math.pi, "spin": u[..., 1] * 2 - 1}

    def observe(self, state: State) -> Tensor:
        """Return the angle's cosine and sine (1 and 0 upright) and its velocity, ``(*B, 3)``."""
        angle = state["angle"]
        return torch.stack((angle.cos(), angle.sin(), state["spin"]), -1)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Turn with at most 2 Nm for 0.05 s; the cost is of angle, velocity and torque."""
        angle, spin = state["angle"], state["spin"]
        torque = actions[..., 0].clamp(-self.MAX_TORQUE, self.MAX_TORQUE)
        off = (angle + math.pi).remainder(2 * math.pi) - math.pi
        rewards = -(off.square() + 0.1 * spin.square() + 0.001 * torque.square())
        spin = spin + (15 * angle.sin() + 3 * torque) * 0.05
        spin = spin.clamp(-self.MAX_SPIN, self.MAX_SPIN)
        state = {"angle": angle.add(spin, alpha=0.05), "spin": spin}
        return state, rewards, torch.zeros_like(spin, dtype=torch.bool)
