"""Images from text: whether they show what was asked for, and how far they are from handwriting."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.benchmarks.harness import Entries, Options, clock, markdown, publish
from jaxdiff.datasets.captioned import NAMES, digits, one_digit, two_digits
from jaxdiff.generation.model import Generator
from jaxdiff.generation.training import Settings, train

DRAWS = 5
BESIDE = 3  # seconds of a shell, of which the median counts


def main(options: Options) -> None:
    count = 100 if options.smoke else 1000
    baseline = Settings(steps=200 if options.smoke else 1500, decoder=True)
    entries = [
        *measured(Generator.shipped(), "diffusion", count),
        *measured(
            train(one_digit(*digits()), settings=baseline, progress=False), "encoder–decoder", count, pairs=False
        ),
    ]
    entries += [{"what": "a cold shell", "seconds": shell()}]
    columns = ["images", "of", "read right", "nearest / held out", "Fréchet / real", "guidance"]
    rows = [
        [
            e["images"],
            e["of"],
            f"{100 * e['right']:.1f} %",
            "–" if e["nearest"] is None else f"{e['nearest']:.2f}",
            f"{e['frechet']:.2f}",
            f"{e['guidance']:g}",
        ]
        for e in entries
        if "images" in e
    ]
    text = f"""{markdown(columns, rows)}

The reader is a support vector machine trained on the held-out digits; it reads {100 * accuracy():.1f} % of the digits that the generator
was trained on. 16 images from a cold shell take {entries[-1]["seconds"]:.1f} s.
"""
    publish(options, "generation", {"entries": entries}, text)


def measured(model: Any, name: str, count: int, pairs: bool = True, seed: int = 0) -> Entries:
    """Of one digit, and of two that were never seen together: the share read right by a stranger, the mean distance to the nearest
    training image as a share of that of held-out images, and the Fréchet distance to these as a share of that of training images."""
    (training, shown), (fresh, known) = digits(), digits(held_out=True)
    asked = np.arange(count) % 10
    drawn = _draw(model, [f"a {NAMES[k]}" for k in asked], seed)
    found = [_entry(name, "one digit", read(drawn) == asked, model.guidance[8, 8])]
    found[0]["nearest"] = nearest(drawn, training) / nearest(fresh, training)
    real = np.mean([frechet(one, fresh) for one in draws(training, min(count, len(training)))])
    found[0]["frechet"] = frechet(drawn, fresh) / float(real)
    if pairs:
        wanted, what, places = two_digits(fresh, known, count, seed, together=False)
        drawn = _draw(model, wanted.captions, seed)
        tiles = np.stack([image[y : y + 8, x : x + 8] for image, two in zip(drawn, places) for y, x in two])
        right = (read(tiles) == what.ravel()).reshape(-1, 2).all(1)
        others = [two_digits(training, shown, count, seed + k, together=False)[0].images for k in range(1, 1 + DRAWS)]
        one = _entry(name, "two digits, never together in training", right, model.guidance[16, 16])
        one["nearest"] = None
        one["frechet"] = frechet(drawn, wanted.images) / float(np.mean([frechet(x, wanted.images) for x in others]))
        found.append(one)
    return found


def _entry(name: str, of: str, right: np.ndarray, guidance: float) -> dict[str, Any]:
    return {"images": name, "of": of, "right": float(np.mean(right)), "count": len(right), "guidance": guidance}


def _draw(model: Any, captions: Any, seed: int) -> np.ndarray:
    return model.generate(list(captions), seed=seed)


def draws(images: np.ndarray, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [images[rng.choice(len(images), count, replace=False)] for _ in range(DRAWS)]


def reader() -> Any:
    """A support vector machine for digits, trained on those that no generator has seen."""
    from sklearn.svm import SVC

    images, shown = digits(held_out=True)
    return SVC(C=10, gamma=0.32).fit(images.reshape(len(images), -1), shown)


def read(images: np.ndarray) -> np.ndarray:
    return reader().predict(images.reshape(len(images), -1))


def accuracy() -> float:
    images, shown = digits()
    return float(np.mean(read(images) == shown))


def nearest(images: np.ndarray, others: np.ndarray) -> float:
    """The mean distance of images to the nearest of others."""
    a, b = images.reshape(len(images), -1), others.reshape(len(others), -1)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return float(np.sqrt(np.maximum(squares.min(1), 0)).mean())


def frechet(images: np.ndarray, others: np.ndarray) -> float:
    """|m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½) of the pixels; Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X."""
    a, b = (each.reshape(len(each), -1).astype(float) for each in (images, others))
    first, second = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared)


def shell() -> float:
    """Seconds in which a fresh process draws 16 images of two digits; the median of three, compiled code in its cache."""
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "a.png"
        words = [sys.executable, "-m", "jaxdiff", "generate", "a seven left of a three", "--output", str(sheet)]
        call = lambda: subprocess.run(words, check=True, capture_output=True)
        call()
        found = float(np.median([clock(call)[0] for _ in range(BESIDE)]))
        if not sheet.is_file():
            raise RuntimeError("the command has drawn nothing")
        return found
