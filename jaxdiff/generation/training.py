"""`train`: a generator from images and captions, by denoising score matching."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdiff.datasets.captioned import Captioned, captioned
from jaxdiff.datasets.vocabulary import Vocabulary
from jaxdiff.generation.model import Generator, build
from jaxdiff.inference import gradient_descent
from jaxdiff.inference.gradient_descent import Descent, Saved, checked_count
from jaxdiff.model.networks import Decoder
from jaxdiff.runtime.checkpoints import digest
from jaxdiff.runtime.compilation import as_written
from jaxdiff.runtime.progress import Progress

LOOK, MOST = 2048, 2**19  # noisy images in a look at held-out data, and their pixels
FEW = 64  # steps of grey, which are seen
WARMING = 200  # steps in which the learning rate rises


@dataclass(frozen=True)
class Settings:
    """What may be chosen of a training.

    Args:
        steps: of AdamW, whose rate rises to `learning_rate` in the first 200 and falls to zero by a cosine.
        learning_rate: the highest.
        batch_size: images a step; of a set of larger images fewer, so that pixels are as many.
        width: numbers in a hidden layer.
        depth: residual layers.
        latent: numbers in a latent code.
        unconditional: the share of captions that are dropped, from which guidance learns what images are without them.
        average: the decay of the moving average of weights.
        patience: steps without a lower loss on held-out images after which it ends, with the best weights; None: the last step's.
        guidance: that of the generator where nobody says otherwise: a number, or one to each set of images.
        temperature: of the generator: the standard deviation of the noise from which it starts.
        decoder: the plain text → code → image by least squares, in place of the diffusion.
        seed: of the first weights, of minibatches and of noise.

    Raises:
        ValueError: numbers out of range.
    """

    steps: int = 7500
    learning_rate: float = 2e-3
    batch_size: int = 128
    width: int = 256
    depth: int = 3
    latent: int = 64
    unconditional: float = 0.1
    average: float = 0.999
    patience: int | None = None
    guidance: float | tuple[float, ...] = 0.3
    temperature: float = 1.12
    decoder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width", "depth", "latent"):
            if (count := checked_count(getattr(self, name), name)) is None or (name == "width" and count < 2):
                raise ValueError(f"{name} must be a whole number from {1 + (name == 'width')} on, got {count}")
            object.__setattr__(self, name, int(count))
        if not 0 <= self.unconditional < 1:
            raise ValueError(f"unconditional must be a share from 0 to below 1, got {self.unconditional!r}")
        if not (np.isfinite(self.guidance).all() and np.min(self.guidance) >= 0):
            raise ValueError(f"guidance must be a number from 0 on, or one to each set, got {self.guidance!r}")
        if not 0 < self.temperature < np.inf:
            raise ValueError(
                f"temperature must be a number above 0, got {self.temperature!r}; 1 is that of the process"
            )

    @property
    def method(self) -> Descent:
        import optax

        warming = min(WARMING, self.steps // 2)
        Descent("adamw", self.learning_rate)  # refuses what is no rate
        rate = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warming, self.steps)
        made = gradient_descent.by_options("adamw", learning_rate=rate, b2=0.99, weight_decay=0.01)
        return Descent(made, patience=self.patience, average=self.average, every=max(1, min(250, self.steps // 10)))


def train(
    *sets: Captioned,
    held_out: Sequence[Captioned] = (),
    settings: Settings | None = None,
    save: str | os.PathLike[str] | None = None,
    callback: Callable[[int, float, float | None, np.ndarray], Any] | None = None,
    progress: bool = True,
) -> Generator:
    """Train a generator on images and their captions.

        loss = E |v_θ(α x + σ ε, λ, caption) − (α ε − σ x)|²,   λ = ln(α²/σ²) uniform, ε standard normal

    Args:
        sets: images with captions, one shape each; every step takes of each set, and the words of a caption must tell by
            their number which shape it is.
        held_out: as many sets of the same shapes, on whose loss `patience` waits.
        settings: see `Settings`; None: its defaults.
        save: a file in which the training is kept, and from which the same call goes on to the same weights.
        callback: (step, loss, loss on held-out images or None, weights) → True ends it.
        progress: whether a bar shows steps, losses and the time left.

    Returns:
        The `Generator` of the averaged weights; its `training` tells steps, losses and why it ended early.

    Raises:
        ValueError: no images, sets that do not fit each other, a loss that left the finite numbers, a file of another training.

    Vincent 2011, doi:10.1162/NECO_a_00142; Ho et al. 2020, arXiv:2006.11239.
    """
    settings = settings or Settings()
    if not sets or (held_out and len(held_out) != len(sets)):
        raise ValueError(
            f"train takes sets of images, and of held-out ones none or as many, got {len(sets)} and {len(held_out)}"
        )
    sets, held_out = (tuple(captioned(*one) for one in some) for some in (sets, held_out))
    sizes = [one.images.shape[1:] for one in sets]
    if len(set(sizes)) < len(sets) or (held_out and sizes != [one.images.shape[1:] for one in held_out]):
        raise ValueError(
            f"sets must have a shape of their own, and held-out ones the same, got {[*sizes, *(one.images.shape[1:] for one in held_out)]}"
        )
    if settings.decoder and len(sets) > 1:
        raise ValueError(f"a decoder draws images of one shape, got {len(sets)} sets")
    if np.shape(settings.guidance) not in ((), (len(sets),)):
        raise ValueError(f"guidance must be a number, or one to each of {len(sets)} sets, got {settings.guidance!r}")
    if settings.patience is not None and not held_out:
        raise ValueError("patience waits for the loss on held-out images; pass held_out=")
    every, learned = (
        Vocabulary.of([text for one in some for text in one.captions]) for some in ((*sets, *held_out), sets)
    )
    vocabulary = Vocabulary(every.words, every.longest, learned.neighbours)
    numbers = [vocabulary.numbers(one.captions) for one in sets]
    counted = [(int(n), size) for size, rows in zip(sizes, numbers) for n in np.unique((rows > 0).sum(1))]
    shapes = dict(counted)
    if len(shapes) < len(counted):
        raise ValueError("captions of as many words tell of images of two shapes; train a generator of each")
    guidance = dict(zip(sizes, np.broadcast_to(settings.guidance, len(sets)).tolist()))
    levels = next(
        (k for k in range(1, FEW) if all(np.allclose(k * x.images, np.round(k * x.images), atol=1e-5) for x in sets)),
        None,
    )
    canvas = tuple(max(one.images.shape[i] for one in sets) for i in (1, 2))
    options: dict[str, Any] = {"canvas": canvas, "width": settings.width, "latent": settings.latent}
    if not settings.decoder:
        options["depth"] = settings.depth
    least = min(one.images[0].size for one in sets)
    counts = [max(1, settings.batch_size * least // one.images[0].size) for one in sets]
    kind = "Decoder" if settings.decoder else "Denoiser"
    method, bar = settings.method, Progress(progress, task="training")
    with jax.enable_x64(False):
        data = tuple((jnp.asarray(2 * one.images - 1), jnp.asarray(rows)) for one, rows in zip(sets, numbers))
        other = tuple(
            (jnp.asarray(2 * one.images - 1), jnp.asarray(vocabulary.numbers(one.captions))) for one in held_out
        )
        first, later = (jax.random.key(settings.seed + i, impl="rbg") for i in (0, 1))  # compiles in half the time
        z, unravel = ravel_pytree(build(kind, len(vocabulary.words), options, first))
        state = gradient_descent.init(method.transformation, np.asarray(z), settings.steps, later)
        file = None if save is None else Saved(save, digest(data, other, astuple(settings)))
        loss = partial(_loss, unravel, settings.unconditional)

        def portion(data: Any, state: Any, until: Any) -> Any:
            each = lambda z, key: (loss(z, key, data, counts), True)
            return gradient_descent.run(each, method.transformation, jnp.inf, state, until, True, method.average)

        def look(z: Any, other: Any) -> Any:
            seen = [min(LOOK, max(32, MOST // images[0].size)) for images, _ in other]
            return loss(z, jax.random.key(0, impl="rbg"), other, seen)

        advance, seen = jax.jit(as_written(portion)), jax.jit(as_written(look))
        try:
            found = gradient_descent.train(
                lambda state, until: advance(data, state, until), state, settings.steps, method,
                progress=bar, callback=callback, save=file,
                validation=(lambda z: seen(z, other)) if other else None,
            )  # fmt: skip
        finally:
            bar.close()
        weights = found.best if found.best is not None else found.state.average
        if not (np.isfinite(weights).all() and np.isfinite(found.state.z).all()):
            if save is not None:
                Path(save).unlink(missing_ok=True)  # there is nothing to go on from
            raise ValueError("the loss left the finite numbers; take a smaller learning_rate")
        made = Generator(
            unravel(jnp.asarray(weights)), vocabulary, shapes, guidance, settings.temperature, levels, options
        )
    made.training = found
    return made


def _loss(unravel: Any, unconditional: float, z: Any, key: Any, sets: Any, counts: Sequence[int]) -> Any:
    """Of a minibatch of each set, summed: a mean over images, and over 64 pixels."""
    network, total = unravel(z), jnp.float32(0)
    for k, ((images, numbers), count) in enumerate(zip(sets, counts)):
        chosen, noise = jax.random.split(jax.random.fold_in(key, k))
        which, dropped, at = jax.random.uniform(chosen, (3, count), jnp.float32)
        rows = jnp.minimum((which * len(images)).astype(jnp.int32), len(images) - 1)
        x, words = images[rows], numbers[rows]
        if isinstance(network, Decoder):
            error = network(network.encoder(words)) - x
        else:
            kept = dropped[:, None] >= unconditional
            t = (jnp.arange(count, dtype=jnp.float32) + at) / count
            epsilon = jax.random.normal(noise, x.shape, jnp.float32)
            process, each = Generator.process, t[:, None, None]
            noisy = process.noised(x, each, epsilon)
            v = network(noisy, process.log_snr(t), network.encoder(jnp.where(kept, words, 0)))
            error = v - (process.signal(each) * epsilon - process.noise(each) * x)
        total = total + jnp.sum(error**2) / count / 64
    return total
