"""The networks, their training, and the file of a model."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.datasets.captioned import Captioned
from jaxdiff.generation import model as models
from jaxdiff.generation.training import Settings, train
from jaxdiff.model import networks

rng = np.random.default_rng(0)
LEVEL = {"dark night": 0.1, "bright day": 0.8}
WORDS = rng.choice(list(LEVEL), 200)
PLAIN = np.array([LEVEL[word] for word in WORDS])[:, None, None] + rng.uniform(-0.1, 0.1, (200, 1, 1)) * np.ones((8, 8))
SET = Captioned(PLAIN.astype(np.float32), tuple(map(str, WORDS)))
TINY = {"width": 32, "depth": 1, "latent": 8, "batch_size": 64, "learning_rate": 5e-3, "average": 0.99}


def leaves(generator):
    return jax.tree.leaves(generator.network)


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (12, 20), (9, 3)])
def test_patches_overlap_and_their_sum_is_the_transpose(shape):
    x = rng.normal(size=(3, *shape))
    patches = networks.cut(jnp.asarray(x))
    assert patches.shape[1:3] == tuple(max(2, -(-side // 4)) - 1 for side in shape)
    y = rng.normal(size=patches.shape)
    back = networks.joined(jnp.asarray(y), shape)
    assert back.shape == x.shape
    assert np.vdot(patches, y) == pytest.approx(np.vdot(x, back), rel=1e-12)


@pytest.mark.slow
def test_an_image_smaller_than_the_canvas_lies_in_its_middle():
    denoiser = networks.Denoiser(3, (16, 16), 16, 1, 8, key=jax.random.key(0))
    code = denoiser.encoder(np.array([[1, 2]]))
    x = jnp.asarray(rng.normal(size=(1, 8, 8)), jnp.float32)
    alone = eqx.tree_at(lambda one: one.places, denoiser, denoiser.places[1:2, 1:2])
    assert denoiser.places.shape[:2] == (3, 3)
    assert np.allclose(denoiser(x, 0.0, code), alone(x, 0.0, code), atol=1e-6)
    assert denoiser(jnp.zeros((1, 16, 16), jnp.float32), 0.0, code).shape == (1, 16, 16)


def test_the_encoder_hears_the_order_of_words_and_not_what_fills_up():
    encoder = networks.TextEncoder(4, 8, key=jax.random.key(1))
    codes = encoder(np.array([[1, 2, 3], [3, 2, 1], [1, 2, 0], [0, 0, 0]]))
    assert np.allclose(encoder(np.array([[1, 2]])), codes[2:3], atol=1e-6)
    assert np.array_equal(codes[3], encoder.empty)
    assert min(np.abs(codes[i] - codes[j]).max() for i in range(4) for j in range(i)) > 1e-3


def test_guidance_leans_towards_the_caption_within_its_interval():
    denoiser = networks.Denoiser(3, (8, 8), 16, 1, 8, key=jax.random.key(2))
    process, x = models.Generator.process, jnp.asarray(rng.normal(size=(2, 8, 8)), jnp.float32)
    code, none = denoiser.encoder(np.array([[1], [2]])), jnp.broadcast_to(denoiser.encoder.empty, (2, 8))
    score = lambda code, w: models.CaptionScore(denoiser, code, process, w)
    for log_snr, leans in ((0.0, True), (4.0, False), (-5.0, False)):
        t = jnp.float32((process.ends[0] - log_snr) / process.fall)
        with_caption, without = score(code, None).denoised(x, t), score(none, None).denoised(x, t)
        expected = with_caption + 2.0 * leans * (with_caption - without)
        assert np.allclose(score(code, jnp.float32(2.0)).denoised(x, t), expected, atol=1e-4)
        back = (x + process.noise(t) ** 2 * score(code, None)(x, t)) / process.signal(t)
        assert np.allclose(back, with_caption, atol=1e-4)


@pytest.mark.slow
def test_the_score_of_a_caption_is_one_for_the_samplers():
    model, process = jd.generation.Generator.shipped(), models.Generator.process
    with jax.enable_x64(False):
        score = model.score("a seven", count=4)
        x = jd.generation.sample(score, process, (4, 8, 8), key=0, steps=10)
        assert x.shape == (4, 8, 8) and np.abs(x).max() < 3
        clean = score.denoised(x, jnp.float32(0.0))
        assert np.abs(clean - x).max() < 5 * process.noise(0.0)


@pytest.mark.slow
def test_what_is_asked_for_is_drawn_and_kept(tmp_path):
    larger = TINY | {"width": 64, "depth": 2, "latent": 16}
    made = train(SET, settings=Settings(steps=1500, guidance=0.0, temperature=1.0, **larger), progress=False)
    drawn = {word: made.generate(word, count=64, seed=3) for word in LEVEL}
    for word, images in drawn.items():
        assert images.shape == (64, 8, 8) and images.dtype == np.float32
        assert abs(images.mean() - LEVEL[word]) < 0.05
        assert 0.03 < images.mean((1, 2)).std() < 0.1  # of a uniform density of half-width 0.1, 0.058
        assert images.std((1, 2)).mean() < 0.12  # pixels of an image are nearly equal
    first = drawn["bright day"][:5]
    assert np.allclose(
        made.generate("bright day", count=5, seed=3), first, atol=1e-4
    )  # products of other sizes round otherwise
    assert np.array_equal(made.generate("bright day", count=64, seed=3), drawn["bright day"])
    assert np.abs(made.generate("bright day", count=5, seed=4) - drawn["bright day"][:5]).max() > 0.01
    made.save(tmp_path / "model.npz")
    again = models.Generator.load(tmp_path / "model.npz")
    assert (tmp_path / "model.npz").stat().st_size < 2.5 * sum(leaf.size for leaf in leaves(made)) + 10_000
    assert again.vocabulary.words == made.vocabulary.words and again.shapes == made.shapes
    with jax.enable_x64(False):  # whatever the session's precision
        assert np.array_equal(again.generate("bright day", count=64, seed=3), drawn["bright day"])
    plain = train(SET, settings=Settings(steps=300, decoder=True, **TINY), progress=False)
    assert np.allclose(plain.generate(["dark night", "bright day"]).mean((1, 2)), list(LEVEL.values()), atol=0.03)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    options = {"settings": Settings(steps=60, seed=5, **TINY), "held_out": [SET], "progress": False}
    whole = train(SET, **options)
    first = train(SET, **options, save=tmp_path / "kept", callback=lambda step, *_: step == 30)
    assert "stopped by the callback at step 30" in first.training.ended
    assert any(not np.array_equal(a, b) for a, b in zip(leaves(first), leaves(whole)))
    second = train(SET, **options, save=tmp_path / "kept")
    assert all(np.array_equal(a, b) for a, b in zip(leaves(second), leaves(whole)))
    assert np.array_equal(second.training.looks, whole.training.looks)
    with pytest.raises(ValueError, match="holds results of another model"):
        train(SET, settings=Settings(steps=60, seed=6, **TINY), save=tmp_path / "kept", progress=False)


def test_what_cannot_be_trained_is_refused():
    for wrong, message in (
        ({"steps": 0}, "steps must be a positive whole number"),
        ({"batch_size": 2.5}, "batch_size must be a positive whole number"),
        ({"unconditional": 1.0}, "unconditional must be a share"),
        ({"guidance": -1.0}, "guidance must be a number from 0 on"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above zero"),
        ({"average": 1.0}, "average must be a decay"),
    ):
        with pytest.raises(ValueError, match=message):
            train(SET, settings=Settings(**wrong))
    with pytest.raises(ValueError, match="train takes sets of images"):
        train()
    with pytest.raises(ValueError, match="pass held_out="):
        train(SET, settings=Settings(patience=10))


def test_files_that_are_no_models_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="there is no model"):
        models.Generator.load(tmp_path / "none.npz")
    shipped = models.resources.files(models.__package__) / "digits.npz"
    whole = shipped.read_bytes()
    assert len(whole) < 4e6
    objects = tmp_path / "objects.npz"
    np.savez(objects, about=np.array([{"format": 1}], object))
    for bad in (b"", b"nothing", whole[: len(whole) // 2], objects.read_bytes()):
        (tmp_path / "bad.npz").write_bytes(bad)
        with pytest.raises(ValueError, match="cannot be read as a model of jaxdiff; copy it anew, or train one$"):
            models.Generator.load(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match="cannot be read"):
        models.Generator.load(tmp_path)


@pytest.mark.parametrize(
    "call, message",
    [
        ({"captions": "a sevem"}, "did you mean 'seven'"),
        ({"captions": ["a seven", "two fours"]}, "8 × 8 for 'a seven' and 16 × 16 for 'two fours'"),
        ({"captions": []}, "got no caption"),
        ({"captions": "a seven", "count": 0}, "count must be a whole number from 1 on, got 0"),
        ({"captions": "a seven", "seed": -1}, "seed must be a whole number from 0 on"),
        ({"captions": "a seven", "guidance": float("nan")}, "guidance must be a number from 0 on"),
        ({"captions": "a seven", "steps": 1}, "steps must be a whole number from 2 on"),
    ],
)
def test_requests_that_are_refused(call, message):
    with pytest.raises(ValueError) as raised:
        jd.generation.Generator.shipped().generate(**call)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
def test_sets_that_do_not_fit_are_refused(tmp_path):
    small, large = np.zeros((4, 8, 8), np.float32), np.zeros((4, 16, 16), np.float32)
    one, two = jd.generation.captioned(small, ["one"] * 4), jd.generation.captioned(large, ["two"] * 4)
    pair = jd.generation.captioned(large, ["one two"] * 4)
    short = Settings(steps=2, width=8, depth=1)
    for sets, held_out, settings, message in (
        ((one, two), (), short, "images of two shapes"),
        ((one, pair), (pair, one), short, "held-out ones the same"),
        ((one, pair), (), Settings(steps=2, decoder=True), "a decoder draws images of one shape"),
        ((one._replace(captions=("one",)),), (), short, "4 images and 1 captions"),
    ):
        with pytest.raises(ValueError, match=message):
            train(*sets, held_out=held_out, settings=settings, progress=False)
    with pytest.raises(ValueError, match="left the finite numbers"):
        lost = Settings(steps=4, width=8, depth=1, learning_rate=1e30)
        train(one, settings=lost, save=tmp_path / "kept", progress=False)
    assert not (tmp_path / "kept").exists()  # there is nothing to go on from
