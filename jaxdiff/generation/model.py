"""`Generator`: a trained model that draws images for captions, and its file."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.datasets.vocabulary import Vocabulary
from jaxdiff.generation.process import Process
from jaxdiff.generation.sampling import sample
from jaxdiff.model.networks import Decoder, Denoiser
from jaxdiff.runtime.compilation import as_written
from jaxdiff.runtime.staging import replacing, require_file

FORMAT = "jaxdiff generator 1"
AT_ONCE = 1024  # images in one run of the sampler
GUIDED = (-3.0, 2.0)  # log-SNR between which captions are leaned on: outside it costs variety, and wins nothing


class CaptionScore(eqx.Module):
    """∇ ln pₜ(x | caption) of a denoiser, leaned towards the caption in the middle of the process.

        x̂ = α x − σ v,   v = v_∅ + (1 + w) (v_caption − v_∅),   score = (α x̂ − x)/σ²

    Ho & Salimans 2022, arXiv:2207.12598; in an interval: Kynkäänniemi et al. 2024, arXiv:2404.07724.
    """

    network: Denoiser
    code: Any
    process: Process
    guidance: Any

    def denoised(self, x: Any, t: Any) -> Any:
        """x̂ = E[x₀ | xₜ]"""
        log_snr = self.process.log_snr(t)
        v = self.network(x, log_snr, self.code)
        if self.guidance is not None:
            empty = jnp.broadcast_to(self.network.encoder.empty, self.code.shape)
            lean = lambda v: v + self.guidance * (v - self.network(x, log_snr, empty))
            v = jax.lax.cond((log_snr > GUIDED[0]) & (log_snr < GUIDED[1]), lean, lambda v: v, v)
        return self.process.signal(t) * x - self.process.noise(t) * v

    def __call__(self, x: Any, t: Any) -> Any:
        return (self.process.signal(t) * self.denoised(x, t) - x) / self.process.noise(t) ** 2


class Generator:
    """Images from captions: a network with what it has learned, its words, and the shapes of its images.

    Args:
        network: a `Denoiser`, or a `Decoder`, which draws one image to a caption; its weights are kept in half precision.
        vocabulary: the words that it knows.
        shapes: {number of words that count: (height, width)}.
        guidance: how far it leans towards captions where nobody says otherwise, {(height, width): weight}.
        temperature: the standard deviation of the noise from which it starts. A network that has learned for minutes leaves out
            variance, as averages do, and guidance more of it; what starts a tenth wider has it again.
        levels: the steps of grey between 0 and 1 to which images are rounded, as those were from which it learned; None: none.
        options: with which the network was made.

    As it ships, for one handwritten digit or two:

    >>> import jaxdiff as jd
    >>> model = jd.generation.Generator.shipped()
    >>> model.generate("a seven", count=2, seed=1).shape, model.generate("a seven left of a three").shape
    ((2, 8, 8), (1, 16, 16))
    """

    process = Process(log_snr=(5.0, -6.0))  # what noise of 0.08 hides, the last look at an image takes away

    def __init__(
        self,
        network: Any,
        vocabulary: Vocabulary,
        shapes: dict[int, tuple[int, int]],
        guidance: dict[tuple[int, int], float],
        temperature: float,
        levels: int | None,
        options: dict[str, Any],
    ):
        halved = lambda leaf: np.asarray(leaf, np.float16).astype(np.float32)
        self.network = jax.tree.map(halved, network)
        self.vocabulary, self.shapes, self.options = vocabulary, shapes, options
        self.guidance, self.temperature, self.levels = guidance, float(temperature), levels
        self.training: Any = None

    def shape(self, caption: str) -> tuple[int, int]:
        """(height, width) of its images: that of training images whose captions have as many words that count, or nearly."""
        count = int(np.count_nonzero(self.vocabulary.numbers([caption])))
        return self.shapes[min(self.shapes, key=lambda known: (abs(known - count), known))]

    def score(self, caption: str, count: int = 1, guidance: float | None = None) -> CaptionScore:
        """The score of images `(count, height, width)` of a caption, pixels from −1 to 1, for `sample` and `log_likelihood`.

        Raises ValueError for a `Decoder`, which has none.
        """
        if isinstance(self.network, Decoder):
            raise ValueError("a decoder has no score; train without decoder=True")
        with jax.enable_x64(False):
            numbers = np.repeat(self.vocabulary.numbers([caption]), count, 0)
            return self._score(_encoded(self.network, numbers), self._weight(self.shape(caption), guidance))

    def _weight(self, shape: tuple[int, int], guidance: float | None) -> float:
        w = self.guidance[shape] if guidance is None else guidance
        if isinstance(w, (bool, str)) or np.ndim(w) or not (np.isfinite(w) and w >= 0):
            raise ValueError(f"guidance must be a number from 0 on, got {w!r}; about {self.guidance[shape]:g} is usual")
        return w

    def generate(
        self,
        captions: str | Sequence[str],
        count: int = 1,
        seed: int = 0,
        guidance: float | None = None,
        steps: int = 40,
    ) -> np.ndarray:
        """Draw `count` images of each caption: `(captions · count, height, width)`, values from 0 to 1, float32.

        seed: the same draws the same images; guidance: above 0 they show what is asked for more often and vary less; steps: of
        the probability flow
        Raises ValueError for unknown words, captions without words, or of images of different shapes, and numbers out of range;
        a warning says where a caption is unlike all that were learned from.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        for name, value, least in (("count", count, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < 2**31:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
        numbers = np.repeat(self.vocabulary.numbers(captions), count, 0)
        if len(shapes := {self.shape(caption): caption for caption in captions}) != 1:
            words = " and ".join(f"{h} × {w} for {caption!r}" for (h, w), caption in shapes.items())
            raise ValueError(
                f"captions must ask for images of one shape, got {words or 'no caption'}; draw them one after the other"
            )
        for doubt in filter(None, map(self.vocabulary.doubt, dict.fromkeys(captions))):
            warnings.warn(doubt, stacklevel=2)
        shape = next(iter(shapes))
        w = self._weight(shape, guidance)
        with jax.enable_x64(False):
            parts = [
                self._drawn(
                    numbers[i : i + AT_ONCE],
                    _noise(int(seed), range(i, min(i + AT_ONCE, len(numbers))), shape),
                    w,
                    steps,
                )
                for i in range(0, len(numbers), AT_ONCE)
            ]
        drawn = np.clip((np.concatenate(parts) + 1) / 2, 0, 1)
        return drawn if self.levels is None else np.round(drawn * self.levels) / np.float32(self.levels)

    def _score(self, code: Any, w: float) -> CaptionScore:
        return CaptionScore(jax.device_put(self.network), code, self.process, None if w == 0 else jnp.float32(w))

    def _drawn(self, numbers: Any, noise: Any, w: float, steps: int) -> np.ndarray:
        code = _encoded(self.network, numbers)
        if isinstance(self.network, Decoder):
            return np.asarray(eqx.filter_jit(self.network)(code))
        score = self._score(code, w)
        x = sample(score, self.process, start=np.float32(self.temperature) * noise, steps=steps)
        return np.asarray(_cleaned(score, x))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model: arrays in half precision and a text, no code. Raises ValueError where it cannot be written."""
        about = {
            "format": FORMAT, "kind": type(self.network).__name__, "options": self.options, "guidance": list(self.guidance.items()), "temperature": self.temperature, "levels": self.levels,
            "words": self.vocabulary.words, "longest": self.vocabulary.longest, "neighbours": sorted(self.vocabulary.neighbours), "shapes": list(self.shapes.items()),
        }  # fmt: skip
        leaves: dict[str, Any] = {
            f"weights{i}": np.asarray(leaf, np.float16) for i, leaf in enumerate(jax.tree.leaves(self.network))
        }
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, about=np.asarray(json.dumps(about)), **leaves)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Generator:
        """Read a model that `save` wrote. Raises ValueError, in one line, for a file that is missing or is none."""
        path = Path(path)
        if not path.exists():
            raise ValueError(f"there is no model {path}; train one with jaxdiff generate train --output {path}")
        try:
            require_file(path)
            with np.load(path, allow_pickle=False) as stored:
                about = json.loads(str(stored["about"]))
                if about["format"] != FORMAT:
                    raise ValueError
                vocabulary = Vocabulary(about["words"], about["longest"], about["neighbours"])
                blank = build(about["kind"], len(vocabulary.words), about["options"], None)
                leaves, structure = jax.tree.flatten(blank)
                weights = [stored[f"weights{i}"] for i in range(len(leaves))]
            if any(w.shape != leaf.shape or not np.isfinite(w).all() for w, leaf in zip(weights, leaves, strict=True)):
                raise ValueError
            shapes = {int(count): (int(h), int(w)) for count, (h, w) in about["shapes"]}
            guidance = {(int(h), int(w)): float(weight) for (h, w), weight in about["guidance"]}
            network = jax.tree.unflatten(structure, weights)
            return cls(network, vocabulary, shapes, guidance, *(about[k] for k in ("temperature", "levels", "options")))
        except Exception:  # there is no end of ways in which bytes can be damaged
            raise ValueError(f"{path} cannot be read as a model of jaxdiff; copy it anew, or train one") from None

    @classmethod
    @cache
    def shipped(cls) -> Generator:
        """The model of one and two handwritten digits that comes with the package."""
        with resources.as_file(resources.files(__package__) / "digits.npz") as path:
            return cls.load(path)


def build(kind: str, words: int, options: dict[str, Any], key: Any) -> Any:
    """The network of a model, with random weights; key: None gives it without any, as shapes."""
    made = partial(
        {"Denoiser": Denoiser, "Decoder": Decoder}[kind], words, **{**options, "canvas": tuple(options["canvas"])}
    )
    with jax.enable_x64(False):
        return eqx.filter_eval_shape(lambda: made(key=jax.random.key(0))) if key is None else made(key=key)


def _noise(seed: int, numbers: range, shape: tuple[int, int]) -> np.ndarray:
    """Of every image by its number, so that more of them begin with the same ones; NumPy's, which needs no compiling."""
    drawn = [np.random.Generator(np.random.Philox(key=[seed, i])).standard_normal(shape, np.float32) for i in numbers]
    return np.stack(drawn)


@eqx.filter_jit
@as_written
def _encoded(network: Any, numbers: Any) -> Any:
    return network.encoder(numbers)


@eqx.filter_jit
@as_written
def _cleaned(score: CaptionScore, x: Any) -> Any:
    return score.denoised(x, jnp.float32(0))
