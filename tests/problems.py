"""What several tests solve on two and three axes."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

PLANE = jd.Grid.uniform((0.0, 1.0, 12), (0.0, 2.0, 10))
CYLINDER = jd.Grid.radial((0.0, 1.0, 8), (0.0, 2.0, 9), geometry="cylindrical")
UNEVEN = jd.Grid(edges=(np.array([0.0, 0.1, 0.3, 0.6, 1.0]), np.array([0.0, 0.5, 0.6, 1.0, 2.0])))
BOX = jd.Grid.uniform((0.0, 1.0, 5), (0.0, 2.0, 6), (0.0, 1.0, 4))
RNG = np.random.default_rng(3)
ARRAY = RNG.random(PLANE.shape) + 0.1


class Whirl(eqx.Module):
    """The drift (−k x − w y, w x − k y) about a point: of other numbers, it is not compiled again."""

    k: Any = eqx.field(converter=lambda x: jnp.asarray(x, float))
    w: Any = eqx.field(converter=lambda x: jnp.asarray(x, float))
    about: Any = eqx.field(converter=lambda x: jnp.asarray(x, float), default=(0.0, 0.0))

    def __call__(self, x, y):
        x, y = x - self.about[0], y - self.about[1]
        return -self.k * x - self.w * y, self.w * x - self.k * y


# equation, grid, whether its axes are separable, whether its content is kept
PROBLEMS = {
    "constant": (jd.Diffusion(0.5), PLANE, True, True),
    "per axis": (jd.Diffusion(jd.PerAxis(lambda x, y: 0.5 + x, lambda x, y: 1 + y * y)), PLANE, True, True),
    "per axis, decaying": (jd.Diffusion(jd.PerAxis(0.5, 0.1), decay=0.3), PLANE, True, False),
    "varying": (jd.Diffusion(lambda x, y: 0.5 + x * y), PLANE, False, True),
    "along x": (jd.Diffusion(lambda x, y: 0.5 + x), PLANE, False, True),
    "array": (jd.Diffusion(ARRAY), PLANE, False, True),
    "mixed walls": (
        jd.Diffusion(0.5, boundaries={"x-": jd.Dirichlet(1.0), "y": jd.Robin(2.0, 0.5)}),
        PLANE,
        True,
        False,
    ),
    "wall by place": (jd.Diffusion(0.5, boundaries={"x-": jd.Dirichlet(lambda y: y * y)}), PLANE, True, False),
    "growing source": (
        jd.Diffusion(
            lambda x, y: 0.5 + x * y, decay=-3.0, source=lambda x, y: x * y, capacity=lambda x, y: 1 + x, boundaries={}
        ),
        PLANE,
        False,
        False,
    ),
    "band": (jd.Diffusion(0.5, boundaries={"x": jd.Periodic()}), PLANE, True, True),
    "vortex": (jd.FokkerPlanck(Whirl(1.0, 3.0, (0.5, 1.0)), 0.3), PLANE, False, True),
    "landscape": (
        jd.FokkerPlanck(jd.Potential(lambda x, y: 4 * ((x - 0.5) ** 2 * y + y)), 0.3),
        PLANE,
        False,
        True,
    ),
    "shear": (
        jd.FokkerPlanck((lambda x, y: 1.0 - x, lambda x, y: 2.0 + x), lambda x, y: 0.2 + 0.1 * x),
        PLANE,
        False,
        True,
    ),
    "torus": (jd.FokkerPlanck((20.0, -30.0), 0.3, boundaries=jd.Periodic()), PLANE, True, True),
    "cylinder": (jd.Diffusion(0.5, boundaries={"r+": jd.absorbing}), CYLINDER, True, False),
    "uneven": (jd.FokkerPlanck((2.0, -3.0), lambda x, y: 0.2 + x * y), UNEVEN, False, True),
    "box": (jd.Diffusion(lambda x, y, z: 0.1 + x * z), BOX, False, True),
    "box, one wall": (jd.Diffusion(0.1, boundaries={"z+": jd.absorbing}), BOX, True, False),
}
