"""Networks: a recurrent encoder of captions, the denoiser that it conditions, and a plain decoder to compare with."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

BLOCK = 4  # pixels along a side; a patch has 2 × 2 blocks, which it shares with its neighbours
PATCH = (2 * BLOCK) ** 2
FREQUENCIES = 8


class Linear(eqx.Module):
    """x ↦ x W + b on the last axis"""

    weight: Any
    bias: Any

    def __init__(self, inputs: int, outputs: int, *, key: Any, scale: float = 1.0):
        self.weight = scale / inputs**0.5 * jax.random.normal(key, (inputs, outputs), jnp.float32)
        self.bias = jnp.zeros(outputs, jnp.float32)

    def __call__(self, x: Any) -> Any:
        return x @ self.weight + self.bias


class TextEncoder(eqx.Module):
    """Numbers of words `(n, longest)` → latent code `(n, width)`, by a gated recurrent unit; no words → the code of no caption.

    Cho et al. 2014, arXiv:1406.1078.
    """

    embedding: Any
    cell: eqx.nn.GRUCell

    def __init__(self, words: int, width: int, *, key: Any):
        keys = jax.random.split(key)
        self.embedding = jax.random.normal(keys[0], (words + 1, width), jnp.float32)
        self.cell = eqx.nn.GRUCell(width, width, dtype=jnp.float32, key=keys[1])

    def __call__(self, numbers: Any) -> Any:
        first = jnp.broadcast_to(self.empty, (len(numbers), len(self.empty)))

        def read(code: Any, number: Any) -> Any:
            return jnp.where(number[:, None] > 0, jax.vmap(self.cell)(self.embedding[number], code), code), None

        return jax.lax.scan(read, first, jnp.asarray(numbers).T)[0]

    @property
    def empty(self) -> Any:
        """The code of no caption `(width,)`."""
        return self.embedding[0]


class Residual(eqx.Module):
    """h ← h + W₂ silu(W₁ norm(h) + W₃ c)"""

    into: Linear
    condition: Linear
    out: Linear

    def __init__(self, width: int, condition: int, *, key: Any):
        keys = jax.random.split(key, 3)
        self.into, self.condition = Linear(width, width, key=keys[0]), Linear(condition, width, key=keys[1])
        self.out = Linear(width, width, key=keys[2], scale=0.2)

    def __call__(self, h: Any, c: Any) -> Any:
        centred = h - jnp.mean(h, -1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
        return h + self.out(jax.nn.silu(self.into(normed) + self.condition(c)))


class Denoiser(eqx.Module):
    """Noisy images, log-SNR and latent codes → v = α ε − σ x (Salimans & Ho 2022, arXiv:2202.00512).

    Every patch of the image, 8 × 8 pixels that overlap by half, goes through the same residual layers, conditioned by what its
    place on the canvas reads in the code, and by the noise; what patches say of a pixel is summed. An image smaller than the
    canvas lies in its middle.
    """

    encoder: TextEncoder
    places: Any
    noise: Linear
    into: Linear
    layers: tuple[Residual, ...]
    out: Linear

    def __init__(
        self, words: int, canvas: tuple[int, int], width: int = 256, depth: int = 3, latent: int = 64, *, key: Any
    ):
        keys = jax.random.split(key, 5 + depth)
        self.encoder = TextEncoder(words, latent, key=keys[0])
        rows, columns = (blocks(side) - 1 for side in canvas)
        self.places = jax.random.normal(keys[1], (rows, columns, latent + 1, width // 2), jnp.float32) / latent**0.5
        self.noise, self.into = Linear(2 * FREQUENCIES, width // 2, key=keys[2]), Linear(PATCH, width, key=keys[3])
        self.out = Linear(width, PATCH, key=keys[4], scale=0.1)
        self.layers = tuple(Residual(width, width // 2, key=k) for k in keys[5:])

    def __call__(self, x: Any, log_snr: Any, code: Any) -> Any:
        """x `(n, height, width)`, log_snr `(n,)` or a number, code `(n, latent)` → `(n, height, width)`"""
        patches = cut(x)
        rows, columns = patches.shape[1:3]
        up, left = ((most - least) // 2 for most, least in zip(self.places.shape, (rows, columns)))
        places = self.places[up : up + rows, left : left + columns]
        angles = jnp.asarray(log_snr)[..., None] * (0.05 * 2.0 ** (jnp.arange(FREQUENCIES) / 2)).astype(jnp.float32)
        noise = self.noise(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1))
        read = jnp.einsum("nl,yxlw->nyxw", code, places[:, :, 1:]) + places[:, :, 0]
        c = jax.nn.silu(read + noise[..., None, None, :])
        h = self.into(patches)
        for layer in self.layers:
            h = layer(h, c)
        return joined(self.out(h), x.shape[1:])


def blocks(side: int) -> int:
    """How many blocks an image is long, two at least."""
    return max(2, -(-side // BLOCK))


def cut(x: Any) -> Any:
    """Images `(n, height, width)` → their patches `(n, rows, columns, 64)`."""
    n, *sides = x.shape
    rows, columns = map(blocks, sides)
    pad = [(0, BLOCK * count - side) for count, side in zip((rows, columns), sides)]
    tiles = jnp.pad(x, [(0, 0), *pad]).reshape(n, rows, BLOCK, columns, BLOCK).swapaxes(2, 3)
    corners = [tiles[:, i : rows - 1 + i, j : columns - 1 + j] for i in (0, 1) for j in (0, 1)]
    return jnp.stack(corners, 3).reshape(n, rows - 1, columns - 1, PATCH)


def joined(patches: Any, sides: tuple[int, ...]) -> Any:
    """The transpose of `cut`: patches summed where they overlap."""
    n, rows, columns = patches.shape[:3]
    corners = patches.reshape(n, rows, columns, 4, BLOCK, BLOCK)
    parts = [
        jnp.pad(corners[:, :, :, 2 * i + j], [(0, 0), (i, 1 - i), (j, 1 - j), (0, 0), (0, 0)])
        for i in (0, 1)
        for j in (0, 1)
    ]
    tiles = sum(parts[1:], parts[0]).swapaxes(2, 3)
    return tiles.reshape(n, BLOCK * (rows + 1), BLOCK * (columns + 1))[:, : sides[0], : sides[1]]


class Decoder(eqx.Module):
    """Latent code → image, without noise: text → code → image by least squares, which draws the mean of what it has seen."""

    encoder: TextEncoder
    into: Linear
    hidden: Linear
    out: Linear
    canvas: tuple[int, int] = eqx.field(static=True)

    def __init__(self, words: int, canvas: tuple[int, int], width: int = 256, latent: int = 64, *, key: Any):
        keys = jax.random.split(key, 4)
        self.encoder, self.canvas = TextEncoder(words, latent, key=keys[0]), canvas
        self.into, self.hidden = Linear(latent, width, key=keys[1]), Linear(width, width, key=keys[2])
        self.out = Linear(width, canvas[0] * canvas[1], key=keys[3])

    def __call__(self, code: Any) -> Any:
        """`(n, latent)` → `(n, height, width)`"""
        h = jax.nn.silu(self.hidden(jax.nn.silu(self.into(code))))
        return self.out(h).reshape(len(code), *self.canvas)
