"""The state of the chains of many objects, and one iteration of all of them (see `hmc`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.flow import harmonic_flow
from autofit_ml.posterior.random_streams import RandomStreams
from autofit_ml.posterior.reference import Reference, fit_reference
from autofit_ml.posterior.step_size import StepSize

__all__ = ["Chains", "HMCSettings", "LogDensity", "start_chains"]

LogDensity = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(index of objects (A,) int64, theta (A, D) float64) -> ln p (A,), d ln p / d theta (A, D).

ln p need not be normalised; a value or gradient that is not finite means "not allowed here"."""

_START, _MOMENTUM, _LENGTH, _ACCEPT, _RETRY = range(5)
"""What random numbers are for."""

_DIVERGED = 1000.0
"""Energy error of a trajectory that has gone astray."""

_OVERDISPERSED = 1.5
"""Standard deviations of the reference over which the chains start."""

_DEEP = 50.0
"""Starts whose ln p is lower by more than this are drawn towards the maximum."""

_HISTORY = 128
"""Iterations of a round that the next round's reference is fitted to."""


@dataclass(frozen=True)
class HMCSettings:
    """Settings of `sample_hmc`.

    Attributes
    ----------
    chains, draws : int
        Per object; draws per chain after the warm-up.
    warmup : int
        Iterations. One costs a Gaussian-like posterior a single gradient.
    rhat : float
        Objects with a larger R-hat of any parameter are drawn again, ...
    rounds : int
        ... until there were this many rounds.
    target_accept : float
        Wanted acceptance of first proposals, in (0, 1).
    trajectory : float
        Mean length of a trajectory, radians of the reference's motion; pi / 2 makes draws of a
        Gaussian independent.
    jitter : float
        Lengths are uniform in ``trajectory * (1 +- jitter)``.
    longer : float
        Where steps have to be short the posterior is no Gaussian, and trajectories are longer by
        up to this factor.
    retry : int
        How many times shorter the steps of the second proposal are; 0: no second proposal.
    max_steps : int
        Of a first proposal.
    seed : int
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 250
    rhat: float = 1.01
    rounds: int = 3
    target_accept: float = 0.7
    trajectory: float = math.pi / 2
    jitter: float = 0.4
    longer: float = 1.75
    retry: int = 3
    max_steps: int = 32
    seed: int = 0

    def __post_init__(self):
        if self.chains < 1 or self.draws < 10 or self.warmup < 20 or self.rounds < 1:
            raise SettingsError(
                f"{self.chains} chains of {self.draws} draws after {self.warmup}, "
                f"{self.rounds} rounds",
                "use at least 1 chain of 10 draws, a warm-up of 20, 1 round",
            )
        if not 0 < self.target_accept < 1 or not 0 <= self.jitter < 1:
            raise SettingsError(
                f"target_accept {self.target_accept}, jitter {self.jitter}",
                "both lie between 0 and 1",
            )
        if not 0 < self.longest < 2 * math.pi:
            raise SettingsError(
                f"trajectories of up to {self.longest:.1f}", "stay under one period, 2 pi"
            )

    @property
    def longest(self) -> float:
        """Longest trajectory."""
        return self.trajectory * (1 + self.jitter) * max(1.0, self.longer)


@dataclass
class _Place:
    """State of the walkers: coordinates and momenta, parameters, ln p and its gradient."""

    z: torch.Tensor
    p: torch.Tensor
    theta: torch.Tensor
    log_density: torch.Tensor
    gradient: torch.Tensor

    @property
    def log_weight(self) -> torch.Tensor:
        """ln of the joint density of parameters and momenta, (A,)."""
        return self.log_density - self.p.square().sum(1) / 2

    def rows(self, index: torch.Tensor) -> _Place:
        return _Place(*(value[index] for value in vars(self).values()))

    def copy(self) -> _Place:
        return _Place(*(value.clone() for value in vars(self).values()))

    def where(self, chosen: torch.Tensor, other: _Place) -> _Place:
        """This place for the chosen walkers (A,), the other one for the rest."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Place(*(torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))

    def put(self, index: torch.Tensor, other: _Place) -> None:
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[index] = theirs

    def back(self) -> _Place:
        """The same place, moving the other way."""
        return replace(self, p=-self.p)


@dataclass
class Chains:
    """B objects x C chains; walker w belongs to object ``w // C``.

    Attributes
    ----------
    density : LogDensity
    settings : HMCSettings
    objects : Tensor, int64, (B,)
        What the density knows the objects by.
    streams : RandomStreams
    lower, upper : Tensor, float64, (B, D)
    reference : Reference
    theta, gradient : Tensor, float64, (B C, D)
    log_density : Tensor, float64, (B C,)
    step_size : StepSize
    n_gradients : Tensor, int64, (B,)
    iteration : int
        Tells the random numbers of one iteration from those of the next.
    accepted, tried, diverged : Tensor, (B,)
        Of the iterations since `begin`.
    history : list of (theta, gradient)
    """

    density: LogDensity
    settings: HMCSettings
    objects: torch.Tensor
    streams: RandomStreams
    lower: torch.Tensor
    upper: torch.Tensor
    reference: Reference
    theta: torch.Tensor
    log_density: torch.Tensor
    gradient: torch.Tensor
    step_size: StepSize
    n_gradients: torch.Tensor
    iteration: int = 0
    accepted: torch.Tensor = field(init=False)
    tried: int = field(init=False)
    diverged: torch.Tensor = field(init=False)
    history: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self):
        self.begin()

    def __len__(self) -> int:
        return len(self.objects)

    def begin(self) -> None:
        """Forget counts and history."""
        self.accepted = torch.zeros(len(self), dtype=torch.float64, device=self.objects.device)
        self.diverged = torch.zeros_like(self.objects)
        self.tried = 0
        self.history = []

    def select(self, index: torch.Tensor) -> Chains:
        """The objects at `index`, with their history."""
        c = self.settings.chains
        walkers = (index[:, None] * c + torch.arange(c, device=index.device)).flatten()
        out = replace(
            self,
            objects=self.objects[index],
            streams=self.streams.select(index),
            lower=self.lower[index],
            upper=self.upper[index],
            reference=self.reference.select(index),
            theta=self.theta[walkers],
            log_density=self.log_density[walkers],
            gradient=self.gradient[walkers],
            step_size=self.step_size.select(index),
            n_gradients=self.n_gradients[index],
        )
        out.history = [(theta[walkers], gradient[walkers]) for theta, gradient in self.history]
        return out

    def evaluate(
        self, walkers: torch.Tensor, theta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ln p and gradient of some walkers (A,), at (A, D); -inf and 0 where not finite."""
        owner = walkers // self.settings.chains
        log_density, gradient = self.density(self.objects[owner], theta)
        self.n_gradients.index_add_(0, owner, torch.ones_like(owner))
        good = torch.isfinite(log_density) & torch.isfinite(gradient).all(1)
        free = self.reference.free[owner]
        return (
            torch.where(good, log_density.to(torch.float64), -math.inf),
            torch.where(good[:, None] & free, gradient.to(torch.float64), 0.0),
        )

    def warm_up(self, iterations: int, windows: tuple[float, ...]) -> None:
        """Adapt the step all the time, and the reference at the ends of windows.

        Parameters
        ----------
        iterations : int
        windows : tuple of float
            Shares of the iterations after which the reference is fitted (to what is in `history`,
            which is then cleared). 0: at the very beginning.
        """
        ends = {round(share * iterations) for share in windows}
        for i in range(iterations):
            if i in ends and self.history:
                self.fit_reference()
            accept = self.step()
            self.remember()
            self.step_size.update(
                accept, self.settings.target_accept, _shortest(self.settings), _cap(self.settings)
            )
        self.step_size.log_step = self.step_size.average.clone()
        self.begin()

    def remember(self) -> None:
        """Add where the walkers are to the history, a part of it if it gets long."""
        self.history.append((self.theta.clone(), self.gradient.clone()))
        if len(self.history) >= 2 * _HISTORY:
            self.history = self.history[::2]

    def fit_reference(self) -> None:
        """Fit the reference to the history, which starts afresh; so does the step size."""
        b, c, d = len(self), self.settings.chains, self.theta.shape[1]
        draws, gradients = (
            torch.stack([item[i] for item in self.history]).view(-1, b, c * d).movedim(0, 1)
            for i in (0, 1)
        )
        n = len(self.history) * c
        self.reference = fit_reference(
            self.reference, draws.reshape(b, n, d), gradients.reshape(b, n, d)
        )
        self.history = []
        self.step_size = StepSize.start(self.step_size.average)

    def step(self) -> torch.Tensor:
        """One iteration of all walkers; the first proposals' acceptance, mean per object (B,)."""
        s, b, d = self.settings, len(self), self.theta.shape[1]
        everyone = torch.arange(b * s.chains, device=self.theta.device)
        free = self.reference.free.repeat_interleave(s.chains, 0)
        z = self.reference.standardise(self.theta.view(b, s.chains, d)).view(-1, d)
        p = self.streams.normal(_MOMENTUM, self.iteration, s.chains, d).view(-1, d) * free
        here = _Place(z, p, self.theta, self.log_density, self.gradient)
        start = here.log_weight
        time, steps = self._lengths()
        there = self._travel(everyone, here, time, steps)
        gain = _difference(there.log_weight, start)
        accept = gain.clamp_max(0).exp()
        uniform = self.streams.uniform(_ACCEPT, self.iteration, s.chains).flatten()
        taken = uniform.log() < gain
        result = there.where(taken, here)
        missed = (~taken).nonzero()[:, 0]
        if s.retry and len(missed):
            again, place = self._retry(missed, here.rows(missed), accept, start, time, steps)
            result.put(missed[again], place)
            taken[missed[again]] = True
        self.theta, self.gradient = result.theta, result.gradient
        self.log_density = result.log_density
        self.iteration += 1
        self.tried += 1
        self.accepted += taken.view(b, -1).to(torch.float64).mean(1)
        self.diverged += (gain < -_DIVERGED).view(b, -1).sum(1)
        return accept.view(b, -1).mean(1)

    def _retry(self, missed, here: _Place, accept, start, time, steps):
        """Second proposals of the walkers that rejected their first: which are accepted (indices
        into `missed`), and where they are."""
        s = self.settings
        time, steps, start = time[missed], steps[missed], start[missed]
        there = self._travel(missed, here, time, steps * s.retry)
        uniform = self.streams.uniform(_RETRY, self.iteration, s.chains).flatten()[missed].log()
        gain = _difference(there.log_weight, start) - torch.log1p(-accept[missed])
        # [1 - alpha(there)] is at most 1: without it most that fail are known.
        hopeful = (uniform < gain).nonzero()[:, 0]
        if len(hopeful) == 0:
            return hopeful, there.rows(hopeful)
        there = there.rows(hopeful)
        back = self._travel(missed[hopeful], there.back(), time[hopeful], steps[hopeful])
        would = _difference(back.log_weight, there.log_weight).clamp_max(0).exp()
        good = uniform[hopeful] < gain[hopeful] + torch.log1p(-would)
        some = good.nonzero()[:, 0]
        return hopeful[some], there.rows(some)

    def _lengths(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Length of the trajectories and their numbers of steps, (B C,)."""
        s = self.settings
        step = self.step_size.log_step.exp()[:, None]
        uniform = self.streams.uniform(_LENGTH, self.iteration, s.chains)
        short = (1.5 * (1 - step / s.trajectory)).clamp(0, 1)
        mean = s.trajectory * (1 + (s.longer - 1) * short)
        time = mean * (1 + s.jitter * (2 * uniform - 1))
        steps = torch.ceil(time / step - 1e-9).clamp(1, s.max_steps)
        time = torch.minimum(time, steps * step)
        return time.flatten(), steps.flatten().to(torch.int64)

    def _travel(
        self, walkers: torch.Tensor, here: _Place, time: torch.Tensor, steps: torch.Tensor
    ) -> _Place:
        """Trajectories of some walkers; ln p is -inf where one went astray."""
        owner = walkers // self.settings.chains
        root, free = self.reference.root[owner], self.reference.free[owner]
        centre, lower, upper = self.reference.centre[owner], self.lower[owner], self.upper[owner]
        low = torch.where(free, lower - centre, -math.inf)
        high = torch.where(free, upper - centre, math.inf)
        out = here.copy()
        limit = here.log_weight - _DIVERGED
        step = (time / steps)[:, None]
        on = torch.arange(len(walkers), device=walkers.device)
        for done in range(1, self.settings.max_steps * max(1, self.settings.retry) + 1):
            if len(on) == 0:
                break
            now = out.rows(on)
            p = now.p + step[on] / 2 * self._force(now.gradient, now.z, root[on])
            z, p, lost = harmonic_flow(now.z, p, step[on, 0], root[on], low[on], high[on])
            moved = centre[on] + (root[on] * z[:, None]).sum(-1)
            moved = torch.where(free[on], moved, now.theta)
            # Rounding may carry a walker past its wall by as much.
            moved = torch.maximum(torch.minimum(moved, upper[on]), lower[on])
            log_density, gradient = self.evaluate(walkers[on], moved)
            p = p + step[on] / 2 * self._force(gradient, z, root[on])
            now = _Place(z, p, moved, log_density, gradient)
            astray = lost | ~(now.log_weight > limit[on])
            now.log_density = torch.where(astray, -math.inf, now.log_density)
            out.put(on, now)
            on = on[(~astray & (steps[on] > done)).nonzero()[:, 0]]
        return out

    @staticmethod
    def _force(gradient: torch.Tensor, z: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
        """- grad V in the reference's coordinates: what the Gaussian does not explain."""
        return (root * gradient[:, :, None]).sum(1) + z


def start_chains(
    density: LogDensity,
    theta: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    reference: Reference,
    good: torch.Tensor,
    settings: HMCSettings,
    keys: torch.Tensor,
) -> Chains:
    """Chains at overdispersed draws of the reference, of the objects with a finite density.

    Parameters
    ----------
    density : LogDensity
    theta, lower, upper : Tensor, float64, (B, D)
    reference : Reference
    good : Tensor, bool, (B,)
        Objects to try.
    settings : HMCSettings
    keys : Tensor, int64, (B,)

    Returns
    -------
    Chains
        Of the objects that can be sampled; `Chains.objects` says which.
    """
    objects = good.nonzero()[:, 0]
    b, d = len(objects), theta.shape[1]
    c = settings.chains
    theta, lower, upper = theta[objects], lower[objects], upper[objects]
    flat = theta.repeat_interleave(c, 0)
    log_step = torch.zeros(b, dtype=torch.float64, device=theta.device)
    chains = Chains(
        density,
        settings,
        objects,
        RandomStreams(settings.seed, keys[objects]),
        lower,
        upper,
        reference.select(objects),
        flat.clone(),
        torch.full((b * c,), -math.inf, dtype=torch.float64, device=theta.device),
        torch.zeros_like(flat),
        StepSize.start(log_step.clamp(max=math.log(_cap(settings)))),
        torch.zeros_like(objects),
    )
    if b == 0:
        return chains
    first = torch.arange(b, device=theta.device) * c
    best, slope = chains.evaluate(first, theta)
    best, slope = best.repeat_interleave(c), slope.repeat_interleave(c, 0)
    offset = _OVERDISPERSED * chains.streams.normal(_START, 0, c, d)
    offset = (chains.reference.root[:, None] * offset[:, :, None]).sum(-1)
    offset = (offset * chains.reference.free[:, None]).view(-1, d)
    low, high = lower.repeat_interleave(c, 0), upper.repeat_interleave(c, 0)
    todo = torch.isfinite(best).nonzero()[:, 0]
    for _ in range(10):
        if len(todo) == 0:
            break
        at = _mirrored(flat[todo] + offset[todo], low[todo], high[todo])
        log_density, gradient = chains.evaluate(todo, at)
        chains.theta[todo], chains.log_density[todo] = at, log_density
        chains.gradient[todo] = gradient
        todo = todo[~(log_density > best[todo] - _DEEP)]
        offset = offset / 2
    chains.theta[todo], chains.log_density[todo] = flat[todo], best[todo]
    chains.gradient[todo] = slope[todo]
    return chains.select(torch.isfinite(best[first]).nonzero()[:, 0])


def _mirrored(theta: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """Points outside the box mirrored into it, at least in part."""
    theta = torch.where(theta < lower, 2 * lower - theta, theta)
    theta = torch.where(theta > upper, 2 * upper - theta, theta)
    return torch.maximum(torch.minimum(theta, upper), lower)


def _difference(log_weight: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Gain in ln of the density; -inf for trajectories that went astray."""
    gain = log_weight - start
    return torch.where(torch.isfinite(gain), gain, -math.inf)


def _cap(settings: HMCSettings) -> float:
    """Longest step: one that makes every trajectory a single step."""
    return settings.trajectory * (1 + settings.jitter)


def _shortest(settings: HMCSettings) -> float:
    """Shortest step."""
    return settings.trajectory / (4 * settings.max_steps)
