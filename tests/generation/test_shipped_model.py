"""The model that ships, by a stranger: whether its images show what was asked for, and how they lie to handwriting."""

import numpy as np
import pytest

from jaxdiff.benchmarks import generation as measures
from jaxdiff.datasets.captioned import digits
from jaxdiff.generation import Generator


@pytest.mark.slow
def test_images_show_what_was_asked_for():
    assert measures.accuracy() >= 0.97
    one, two = measures.measured(Generator.shipped(), "diffusion", 200)
    assert one["right"] >= 0.98 and two["right"] >= 0.94  # 0.99 and 0.97, less what 200 images leave open
    assert 0.93 < one["nearest"] < 1.27
    assert one["frechet"] < 1.6 and two["frechet"] < 3


def test_measures_know_handwriting_from_what_is_none():
    (images, shown), (fresh, known) = digits(), digits(held_out=True)
    assert len(images) == 1200 and len(fresh) == 597
    same = measures.frechet(images, fresh)
    assert measures.frechet(images, images) == pytest.approx(0.0, abs=1e-6)
    assert measures.frechet(images + 0.5, images) == pytest.approx(16.0, rel=1e-5)  # 64 pixels, each half a unit off
    assert measures.frechet(2 * images, images) == pytest.approx(
        (images.mean(0) ** 2).sum() + images.reshape(1200, -1).astype(float).var(0, ddof=1).sum(), rel=1e-5
    )
    means = np.stack([images[shown == k].mean(0) for k in known])
    assert measures.frechet(means, fresh) > 10 * same
    assert measures.nearest(images, images) < 1e-3 < measures.nearest(fresh, images)
