"""Many small images as one."""

from __future__ import annotations

import io
import math

import numpy as np


def sheet(images: np.ndarray, scale: int | None = None) -> np.ndarray:
    """Images `(n, height, width)` row after row, ⌈√n⌉ in each, without a frame, every pixel `scale` × `scale` (None: so that
    it is some 512 wide); uint8."""
    n, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    scale = scale or max(1, 512 // (columns * width))
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:n] = np.round(255 * np.clip(images, 0, 1))
    flat = tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return flat.repeat(scale, 0).repeat(scale, 1)


def png(images: np.ndarray) -> bytes:
    """The sheet as a PNG file."""
    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(sheet(images)).save(made, "png")
    return made.getvalue()
