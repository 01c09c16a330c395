"""Images and their captions: handwritten digits alone and in pairs, arrays, folders."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NAMES = "zero one two three four five six seven eight nine".split()
PLURALS = [name + ("es" if name == "six" else "s") for name in NAMES]
ALONE = ("a {}", "the digit {}", "a handwritten {}", "{}", "number {}")
PLACES = {"left": ((4, 0), (4, 8)), "right": ((4, 8), (4, 0)), "above": ((0, 4), (8, 4)), "below": ((8, 4), (0, 4))}
TRAINING = 1200  # of the 1,797 digits, in the order of a shuffle; the others are held out
NEVER_TOGETHER = frozenset(frozenset((k, (k + 3) % 10)) for k in range(10))  # each digit is in two of these pairs
DIGIT_GUIDANCE = (0.45, 1.0)  # of one digit and of two, which must both be right


class Captioned(NamedTuple):
    """Images `(n, height, width)` with values from 0 to 1, float32, and a caption of each."""

    images: np.ndarray
    captions: tuple[str, ...]


def captioned(images: Any, captions: Sequence[str]) -> Captioned:
    """Images `(n, height, width)`, numbers from 0 to 1 or whole numbers from 0 to 255 (uint8), and as many captions.

    Raises ValueError for other shapes or values, and where there is not one caption to an image.
    """
    images = np.asarray(images)
    if images.ndim != 3 or not images.size:
        raise ValueError(f"images must be an array (n, height, width), got shape {images.shape}; take one channel")
    if isinstance(captions, str) or len(captions) != len(images):
        count = 1 if isinstance(captions, str) else len(captions)
        raise ValueError(f"{len(images)} images and {count} captions; give one to each")
    if not (np.issubdtype(images.dtype, np.number) or images.dtype == bool) or np.iscomplexobj(images):
        raise ValueError(f"images must be real numbers, got {images.dtype}")
    if images.dtype == np.uint8 and 0 < images.max() <= 1:
        raise ValueError("uint8 counts to 255, got nothing above 1; pass images == 1 where these are two shades")
    scaled = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 1):
        raise ValueError(
            f"values must lie between 0 and 1, got {scaled.min():g} to {scaled.max():g}; divide by the largest, or give uint8"
        )
    return Captioned(scaled, tuple(captions))


def from_folder(folder: Path) -> Captioned:
    """The PNG files of a folder, all of one size, in shades of grey, with the captions of its `captions.csv`: columns file, caption.

    Raises ValueError, in one line, for what is missing, damaged or of another size.
    """
    from PIL import Image

    table = Path(folder) / "captions.csv"
    if not table.is_file():
        raise ValueError(f"{table} is missing; write a row file,caption for each PNG file, beneath these two names")
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns, found = set(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as text in UTF-8: {error}") from None
    if not {"file", "caption"} <= columns:
        raise ValueError(f"{table} must have columns file and caption, got {', '.join(sorted(columns))}")
    for row in found:
        if row.get(None) or row["file"] is None:
            raise ValueError(
                f"a row of {table} has not as many columns as its head: {list(row.values())}; put captions with commas in quotes"
            )
    rows = [(row["file"], row["caption"] or "") for row in found]
    if not rows:
        raise ValueError(f"{table} has no rows; write one for each PNG file")
    named = {name for name, _ in rows}
    images_there = (file.name for file in Path(folder).iterdir() if file.suffix.lower() == ".png")
    if without := sorted(name for name in images_there if name not in named):
        raise ValueError(
            f"{len(without)} images have no caption in {table}, the first is {without[0]}; add a row to each"
        )
    images = []
    for name, _ in rows:
        try:
            with Image.open(Path(folder) / name) as image:
                mode, clear = image.mode, "A" in image.getbands() or "transparency" in image.info
                images.append(np.asarray(image.convert("L")))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise ValueError(f"{Path(folder) / name} cannot be read as a PNG file; mend or remove its row") from None
        if clear or mode[0] in "IF":
            what = "is transparent in places" if clear else "has 16 bits or more"
            raise ValueError(f"{Path(folder) / name} {what}; save it in 8 bits of grey, on a ground")
        if images[-1].shape != images[0].shape:
            sizes = " and ".join("{1} × {0}".format(*one.shape) for one in (images[0], images[-1]))
            raise ValueError(
                f"{Path(folder) / name} is of another size than {rows[0][0]}: {sizes} pixels; make them equal"
            )
    return captioned(np.stack(images), [caption for _, caption in rows])


def digits(held_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(images `(n, 8, 8)` from 0 to 1, what they show `(n,)`): 1,200 handwritten digits to train with, or the 597 held out.

    Alpaydin & Kaynak 1998, doi:10.24432/C50P49, as scikit-learn ships them (CC BY 4.0).
    Raises ValueError without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("the handwritten digits come with scikit-learn; pip install jaxdiff[generate]") from None
    images, shown = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    chosen = order[TRAINING:] if held_out else order[:TRAINING]
    return (images[chosen].reshape(-1, 8, 8) / 16).astype(np.float32), shown[chosen]


def one_digit(images: np.ndarray, shown: np.ndarray, seed: int = 0) -> Captioned:
    """Digits with captions like "a seven", "the digit three", "a handwritten four"."""
    form = np.random.default_rng(seed).integers(len(ALONE), size=len(images))
    return Captioned(images, tuple(ALONE[f].format(NAMES[k]) for f, k in zip(form, shown, strict=True)))


def two_digits(
    images: np.ndarray, shown: np.ndarray, count: int, seed: int = 0, together: bool = True
) -> tuple[Captioned, np.ndarray, np.ndarray]:
    """Pairs on a canvas of 16 × 16, "a seven left of a three", "a two above a nine", "two fours" (beside each other), what they
    show `(count, 2)` in the order of the caption, and where each begins `(count, 2, 2)`.

    together: pairs such as are trained with; False: those that never are, `NEVER_TOGETHER`
    """
    rng = np.random.default_rng(seed)
    allowed = [(a, b) for a in range(10) for b in range(10) if (frozenset((a, b)) in NEVER_TOGETHER) != together]
    pairs = np.asarray(allowed)[rng.integers(len(allowed), size=count)]
    words = rng.choice(list(PLACES), count)
    places = np.asarray([PLACES[word] for word in words])
    canvas, captions = np.zeros((count, 16, 16), np.float32), []
    those = [np.flatnonzero(shown == k) for k in range(10)]
    for i, (pair, word) in enumerate(zip(pairs, words, strict=True)):
        for k, (y, x) in zip(pair, places[i], strict=True):
            canvas[i, y : y + 8, x : x + 8] = images[rng.choice(those[k])]
        a, b = pair
        plural = a == b and word in ("left", "right")
        captions.append(
            f"two {PLURALS[a]}" if plural else f"a {NAMES[a]} {word}{' of' * (word in ('left', 'right'))} a {NAMES[b]}"
        )
    return Captioned(canvas, tuple(captions)), pairs, places


def digit_sets(pairs: int = 20_000) -> tuple[tuple[Captioned, Captioned], tuple[Captioned, Captioned]]:
    """What the model that ships is trained on: digits alone, and pairs of them; 1,140 of the 1,200 to train with, the others to
    tell how it goes."""
    images, shown = digits()
    parts = (images[60:], shown[60:], pairs, 1), (images[:60], shown[:60], 2_000, 2)
    made = [(one_digit(x, k, seed), two_digits(x, k, count, seed)[0]) for x, k, count, seed in parts]
    return made[0], made[1]


def split(data: Captioned, share: float = 0.1, seed: int = 0) -> tuple[tuple[Captioned], tuple[Captioned]]:
    """Images to train with, and a share of them held out."""
    order = np.random.default_rng(seed).permutation(len(data.images))
    count = int(np.ceil(share * len(order)))
    if count >= len(order):
        raise ValueError(f"{len(order)} images are too few to hold some out; give more")
    parts = [
        (Captioned(data.images[rows], tuple(data.captions[i] for i in rows)),)
        for rows in (order[count:], order[:count])
    ]
    return parts[0], parts[1]
