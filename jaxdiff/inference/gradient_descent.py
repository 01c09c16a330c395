"""Gradient descent by any optax transformation: compiled portions of steps, and the loop over them that looks at held-out
data, keeps the best weights and a file, and can be stopped and resumed.

It knows nothing of models: it takes functions of one vector z, whose coordinates are of order one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference import quasi_newton
from jaxdiff.inference.quasi_newton import QuasiNewton
from jaxdiff.runtime.checkpoints import Checkpoint
from jaxdiff.runtime.progress import Progress

RATE = 0.01  # of learning, where none is given: coordinates are of order one
EVERY = 10  # steps between two looks
MOST = 10_000_000  # of anything that is counted
METHODS = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lbfgs lion nadam nadamw "
    "noisy_sgd novograd optimistic_adam_v2 radam rmsprop rprop sgd sign_sgd sm3 yogi"
).split()  # of optax, by their names there


@dataclass(frozen=True)
class Descent:
    """Gradient descent: which optax transformation, and what held-out data and averages decide.

        z ← z + update(∇ loss(z)),   z̄ ← a z̄ + (1 − a) z,   a = min(average, (1 + t)/(10 + t))

    Args:
        method: the name of an optimiser of optax, like "adam", or an optax transformation.
        learning_rate: of a method by name, a number or a schedule of optax (step → rate); None: 0.01, and for "lbfgs" a search along each direction.
            Parameters are numbers of order one, so that it means the same in every model.
        patience: steps without a lower loss on held-out data after which the search ends; the parameters returned are those
            where that loss was lowest. None: it goes on to the last step.
        average: the decay a of a moving average of parameters, which is judged by the held-out data and returned in place of
            the last ones, above 0 and below 1; it forgets what is older than about 1/(1 − a) steps.
        every: steps between two looks at held-out data, two calls of `callback` and two chances to write to `save`.

    Raises:
        ValueError: an unknown method, numbers out of range, a rate for a transformation that has its own.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 3.0, 30)
    >>> readings = jd.Readings(grid, 1.0, times, np.full(30, 0.5), np.exp(-0.5 * times))
    >>> method = jd.Descent("adam", learning_rate=0.05, patience=200)
    >>> model = jd.Diffusion(1.0, decay=jd.Positive(1.0))
    >>> fit = jd.fit(model, readings, optimizer=method, validation=0.2, progress=False)
    >>> round(fit.parameters["decay"], 2), fit.validation_history.shape[1]
    (0.5, 2)

    Adam: Kingma & Ba 2015, arXiv:1412.6980; averages: Polyak & Juditsky 1992, doi:10.1137/0330046; early stopping: Prechelt
    1998, doi:10.1007/3-540-49430-8_3.
    """

    method: Any = "adam"
    learning_rate: Any = None
    patience: int | None = None
    average: float | None = None
    every: int = EVERY

    def __post_init__(self) -> None:
        if isinstance(self.method, str):
            if self.method not in METHODS:
                near = get_close_matches(self.method, METHODS, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"unknown optimiser {self.method!r}; {hint}choose one of {', '.join(METHODS)}")
        elif not is_transformation(self.method):
            raise TypeError(
                f"method must be the name of an optimiser or an optax transformation, got {type(self.method).__name__}; write 'adam'"
            )
        elif self.learning_rate is not None:
            raise ValueError(
                "learning_rate belongs to a method by name, got an optax transformation, which has its own"
            )
        rate = self.learning_rate
        if rate is not None and not callable(rate):
            if isinstance(rate, (bool, str)) or np.ndim(rate) or not (np.isfinite(rate) and rate > 0):
                raise ValueError(f"learning_rate must be a number above zero or a schedule of optax, got {rate!r}")
            object.__setattr__(self, "learning_rate", float(rate))
        for name in ("patience", "every"):
            object.__setattr__(self, name, checked_count(getattr(self, name), name))
        if self.every is None:
            raise ValueError("every must be a positive whole number, got None")
        a = self.average
        if a is not None and (isinstance(a, (bool, str)) or np.ndim(a) or not 0 < a < 1):
            raise ValueError(f"average must be a decay above 0 and below 1, got {a!r}; 0.999 is usual")

    def __str__(self) -> str:
        rate = (
            ""
            if self.learning_rate is None
            else f" at {self.learning_rate if not callable(self.learning_rate) else 'a scheduled rate'}"
        )
        name = f"optax.{self.method}" if isinstance(self.method, str) else "an optax transformation"
        more = [f"stopped by held-out data after {self.patience} steps in vain"] if self.patience is not None else []
        more += [f"parameters averaged with a decay of {self.average:g}"] if self.average is not None else []
        return ", ".join([name + rate, *more])

    @property
    def transformation(self) -> Any:
        """Of optax; the same object for the same name and rate, so that repeated fits do not compile again."""
        return _by_name(self.method, self.learning_rate) if isinstance(self.method, str) else self.method

    @property
    def searches(self) -> bool:
        """Whether it is the quasi-Newton method, which needs fewer steps."""
        return isinstance(self.transformation, QuasiNewton)


@cache
def _by_name(method: str, rate: Any) -> Any:
    if method == "lbfgs" and rate is None:
        return QuasiNewton()
    return by_options(method, learning_rate=RATE if rate is None else rate)


def by_options(method: str, **options: Any) -> Any:
    """The transformation of optax of this name with these options."""
    import optax

    seed = {"key": 0} if method == "noisy_sgd" else {}
    return getattr(optax, method)(**{**seed, **options})


def is_transformation(thing: Any) -> bool:
    return isinstance(thing, tuple) and hasattr(thing, "init") and hasattr(thing, "update")


def checked_count(value: int | None, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, (bool, str)) or np.ndim(value) or not np.isfinite(value) or int(value) != value or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    if value > MOST:
        raise ValueError(f"{name} must be at most {MOST}, got {value}; take fewer")
    return int(value)


class OptaxState(NamedTuple):
    """Where a run of an optax transformation stands."""

    z: Any
    optimizer: Any
    best_value: Any  # the lowest loss met
    best: Any  # and where
    average: Any  # of z over steps
    iteration: Any
    history: Any
    key: Any
    done: Any
    needs_replan: Any  # whether predictors must be renewed before the next step


def init(optimizer: Any, z: Any, steps: int, key: Any) -> OptaxState:
    """A run that has not taken a step yet."""
    inner = jax.tree.map(np.asarray, optimizer.init(jnp.asarray(z)))  # strongly typed, as the loop will return it
    history, no = np.full(steps, np.nan, z.dtype), np.asarray(False)
    return OptaxState(z, inner, np.asarray(np.inf, z.dtype), z, z, np.asarray(0), history, key, no, no)


def searches_lines(state: OptaxState) -> bool:
    """Whether the transformation searches along lines, and keeps the value it found."""
    import optax

    return optax.tree_utils.tree_get(state.optimizer, "value") is not None


def run(
    loss: Callable[[Any, Any], Any],
    optimizer: Any,
    limit: Any,
    state: OptaxState,
    until: Any,
    batched: bool,
    average: float | None = None,
) -> OptaxState:
    """Continue a run of an optax transformation to step `until`; traceable.

    loss: (z, key) → its value, and whether the predictors resolve the coefficients there; without that a value is worth nothing
    limit: how far z may run; batched: whether the loss is of a minibatch that `key` draws; average: the decay of that of z
    """
    if isinstance(optimizer, QuasiNewton):
        return quasi_newton.run(optimizer, loss, limit, state, until, average, decay)
    import optax

    optimizer = optax.with_extra_args_support(optimizer)

    def body(state: OptaxState) -> OptaxState:
        key, now = jax.random.split(state.key)

        def function(z: Any) -> Any:  # a line search shortens its step where this is NaN
            total, resolved = loss(z, now)
            return jnp.where(resolved, total, jnp.nan)

        stored = not batched and searches_lines(state)
        resolved: Any = True
        if not stored:
            (total, resolved), gradient = jax.value_and_grad(loss, has_aux=True)(state.z, now)
        else:
            total, gradient = optax.value_and_grad_from_state(function)(state.z, state=state.optimizer)
        updates, inner = optimizer.update(
            gradient, state.optimizer, state.z, value=total, grad=gradient, value_fn=function
        )
        z = jnp.clip(optax.apply_updates(state.z, updates), -limit, limit)
        lower = total < state.best_value
        still = jnp.max(jnp.abs(gradient) * (1 + jnp.abs(state.z))) <= 1e-12
        diverged = ~jnp.isfinite(total) | ~jnp.all(jnp.isfinite(z))
        new = OptaxState(
            z,
            inner,
            jnp.where(lower, total, state.best_value),
            jnp.where(lower, state.z, state.best),
            z if average is None else state.average + (1 - decay(average, state.iteration)) * (z - state.average),
            state.iteration + 1,
            state.history.at[state.iteration].set(total),
            key,
            (still & (not batched)) | diverged,
            state.needs_replan,
        )
        old = state._replace(needs_replan=jnp.array(True))
        return new if resolved is True else jax.lax.cond(resolved, lambda: new, lambda: old)

    goes_on = lambda state: (state.iteration < until) & ~state.done & ~state.needs_replan
    return jax.lax.while_loop(goes_on, body, state)


def decay(average: float, step: Any) -> Any:
    """That of a moving average, which forgets its first steps sooner."""
    return jnp.minimum(average, (1.0 + step) / (10.0 + step))


class Trained(NamedTuple):
    """Where a training ended; `best` are the weights of the lowest loss on held-out data, None where there is none or it was not
    asked for, `looks` (k, 2) the steps at which it was asked, and the loss; `ended` why it ended before the last step."""

    state: OptaxState
    best: Any
    looks: np.ndarray
    ended: str
    notes: tuple[str, ...]

    @property
    def best_step(self) -> int:
        """Where the loss on held-out data was lowest."""
        return _lowest(self.looks)[0]


def train(
    advance: Callable[[OptaxState, int], OptaxState],
    state: OptaxState,
    steps: int,
    method: Descent,
    *,
    progress: Progress,
    unit: float = 1.0,
    validation: Callable[[Any], float] | None = None,
    renew: Callable[[OptaxState], OptaxState | str] | None = None,
    callback: Callable[[int, float, float | None, np.ndarray], Any] | None = None,
    save: Any = None,
) -> Trained:
    """Train to step `steps`, in portions of compiled steps; an interruption, a full disk or a callback cost nothing that was won.

    advance: continues a run to a step; unit: by which the loss of a run is multiplied where it is shown; validation: weights →
    loss on held-out data; renew: looks at each state between two portions, returns it or why it cannot go on; callback: (step,
    loss, loss on held-out data or None, weights), True ends it; save: a `Saved`
    """
    looks: list[tuple[float, float]] = []
    notes: list[str] = []
    ended, best, lowest = "", state.z, (0, np.inf)
    if save is not None and (stored := save.read(state)) is not None:
        state, best, looks = stored
        lowest = _lowest(looks)
    own = dict if save is None else save.own
    if validation is not None and not looks:
        looks.append((0, float(validation(state.z))))
        lowest = _lowest(looks)
    kept: Any = state, best, len(looks), own()
    stale = lambda step: method.patience is not None and len(looks) > 0 and step - lowest[0] >= method.patience
    try:
        while (step := int(state.iteration)) < steps and not state.done and not ended and not stale(step):
            until = min(steps, (step // method.every + 1) * method.every)
            state = jax.tree.map(_on_host, jax.block_until_ready(advance(state, until)))
            step, replan = int(state.iteration), bool(state.needs_replan)
            if renew is not None and np.isfinite(state.z).all():
                renewed = renew(state)
                if isinstance(renewed, str):
                    ended = renewed
                    break
                state = renewed._replace(needs_replan=np.asarray(False))
            if replan and step < until:
                continue
            loss, held_out = unit * float(state.history[max(step - 1, 0)]), None
            weights = state.z if method.average is None else state.average
            if validation is not None and np.isfinite(weights).all():
                held_out = float(validation(weights))
                if held_out < lowest[1]:
                    best, lowest = weights, (step, held_out)
                looks.append((step, held_out))
            kept = state, best, len(looks), own()
            progress.show(step, steps, loss, held_out)
            if save is not None:
                notes += save.offer(*kept[:2], looks, kept[3])
            if callback is not None and callback(step, loss, held_out, weights) is True:
                ended = f"stopped by the callback at step {step} of {steps}"
    except KeyboardInterrupt:
        ended = f"interrupted at step {int(kept[0].iteration)} of {steps}"
    state, best, count, mine = kept
    looks = looks[:count]
    if save is not None:
        notes += save.offer(state, best, looks, mine, last=True)
    if not ended and (step := int(state.iteration)) < steps and stale(step):
        ended = f"stopped early at step {step} of {steps}"
    chosen = best if method.patience is not None and looks else None
    return Trained(state, chosen, np.asarray(looks, float).reshape(-1, 2), ended, tuple(dict.fromkeys(notes)))


def _on_host(leaf: Any) -> Any:
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


def _lowest(looks: Any) -> tuple[int, float]:
    """(step, loss) of the first look at which held-out data were predicted best."""
    known = [(loss, step) for step, loss in looks if np.isfinite(loss)]
    return (int(min(known)[1]), min(known)[0]) if known else (0, np.inf)


class Saved:
    """The file of a training: where it stands, written whole or not at all.

    own: arrays of the caller {name: array} that belong to a state, written beside it; restored: told of them when they are read
    Raises ValueError if there is no such folder, or the file belongs to something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        digest: str,
        own: Callable[[], dict[str, np.ndarray]] = dict,
        restored: Callable[[dict[str, np.ndarray]], None] = lambda _: None,
    ):
        if not (folder := Path(path).absolute().parent).is_dir():
            raise ValueError(f"save={os.fspath(path)!r} is in a folder that does not exist; make {folder} first")
        self.file, self.own, self.restored, self.failed = Checkpoint(path, digest), own, restored, False

    def read(self, state: OptaxState) -> tuple[OptaxState, Any, list[tuple[float, float]]] | None:
        """(state, best weights, looks) of the file; None if there is none yet."""
        if not self.file.pieces:
            return None
        arrays = dict(self.file.pieces[0])
        looks, best, key = (arrays.pop(name) for name in ("looks", "best", "key"))
        bare = state._replace(key=None, history=None)
        leaves, structure = jax.tree.flatten(bare)
        stored = [arrays.pop(f"state{i}", None) for i in range(len(leaves))]
        alike = [one is not None and np.shape(one) == np.shape(leaf) for one, leaf in zip(stored, leaves, strict=True)]
        if not all(alike):
            raise ValueError(f"{self.file.path} is damaged or of another version; name another file, or remove it")
        history, written = np.array(state.history), arrays.pop("history")
        size = max(len(history), len(written))  # more or fewer steps may be asked for than before
        history = np.concatenate([written, np.full(size - len(written), np.nan, written.dtype)])
        key = jax.random.wrap_key_data(jnp.asarray(key), impl=jax.random.key_impl(state.key))
        self.restored(arrays)
        again = jax.tree.unflatten(structure, stored)._replace(key=key, history=history)
        return again, best, [(float(step), float(loss)) for step, loss in looks]

    def offer(self, state: OptaxState, best: Any, looks: Any, own: dict[str, Any], last: bool = False) -> list[str]:
        """Write if it is time to, or at the last; what there is to say of it."""
        if not (last or self.file.due):
            return []
        leaves = jax.tree.leaves(state._replace(key=None, history=None))
        arrays = {"looks": np.asarray(looks, float).reshape(-1, 2), "best": best}
        arrays |= {"key": jax.random.key_data(state.key), "history": state.history[: int(state.iteration)]}
        arrays |= {f"state{i}": leaf for i, leaf in enumerate(leaves)} | own
        try:
            self.file.put({name: np.asarray(array) for name, array in arrays.items()})
        except ValueError as error:
            if not self.failed:
                warnings.warn(f"{error}; the training goes on, and what was written before stays", stacklevel=2)
            self.failed = True
            return [f"not all of the training is in its file: {error}"]
        return []


def finite(array: Any) -> np.ndarray:
    """The written part of a history."""
    array = np.asarray(array, float)
    return array[~np.isnan(array)]
