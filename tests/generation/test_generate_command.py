"""The command `jaxdiff generate`: sheets, arrays, a model of one's own, and what it refuses in one line."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxdiff.shell.cli.prepare_jax", lambda: None)  # the tests have their own settings
    return tmp_path


def test_a_sheet_and_arrays_of_the_same_seed(workplace, run):
    code, out, _ = run("generate", "a seven left of a three", "--count", 5, "--output", "sevens.png", "--seed", 4)
    assert code == 0 and out == "5 images of 16 × 16 pixels: sevens.png\n"
    code, _, _ = run("generate", "a Seven, left of a three!", "--count", 5, "--output", "sevens.npy", "--seed", 4)
    arrays, sheet = np.load("sevens.npy"), np.asarray(Image.open("sevens.png"))
    assert arrays.shape == (5, 16, 16) and 0 <= arrays.min() and 0.9 < arrays.max() <= 1
    scale = sheet.shape[0] // 32
    assert sheet.shape == (32 * scale, 48 * scale)
    assert np.array_equal(sheet[::scale, ::scale][16:, :16], np.round(255 * arrays[3]))
    assert (sheet[16 * scale :, 32 * scale :] == 0).all()


@pytest.mark.slow
def test_a_model_of_a_folder(workplace, run):
    rng = np.random.default_rng(0)
    (workplace / "data").mkdir()
    rows = ["file,caption"]
    for k in range(60):
        dark = k % 2
        pixels = rng.integers(0, 60, (6, 10)) + 180 * (1 - dark)
        Image.fromarray(pixels.astype(np.uint8)).save(workplace / "data" / f"{k}.png")
        rows.append(f"{k}.png,{'dark' if dark else 'bright'} noise")
    (workplace / "data" / "captions.csv").write_text("\n".join(rows))
    code, out, _ = run("generate", "train", "--data", "data", "--output", "noise.npz", "--steps", 120)
    assert code == 0 and out.startswith("Trained for 120 steps, loss on held-out images ") and "Model: noise.npz" in out
    assert sorted(file.name for file in workplace.iterdir()) == ["data", "noise.npz"]
    for word, level in (("dark", 0.12), ("bright", 0.82)):
        code, out, _ = run("generate", f"{word} noise", "--count", 20, "--model", "noise.npz", "--output", "a.npy")
        assert code == 0
        assert np.load("a.npy").shape == (20, 6, 10)
        assert abs(np.load("a.npy").mean() - level) < 0.1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a sevem"], "unknown word 'sevem' in 'a sevem'; did you mean 'seven'?"),
        ([""], "the caption '' says nothing"),
        ([], "Missing argument 'CAPTION'"),
        (["a seven", "--output", "a.jpg"], "must end in .png, for a sheet, or .npy"),
        (["a seven", "--count", 0], "count must be a whole number from 1 on, got 0"),
        (["a seven", "--model", "mine.npz"], "there is no model mine.npz; train one with jaxdiff generate train"),
        (["a seven", "--guidance", -1], "guidance must be a number from 0 on"),
        (["a seven", "--output", "nowhere/a.png"], "nowhere/a.png cannot be written"),
        (["train", "--data", "nowhere"], "captions.csv is missing"),
        (["train", "--steps", 0], "steps must be a positive whole number, got 0"),
        (["train", "--output", "nowhere/model.npz"], "--output nowhere/model.npz is in a folder that does not exist"),
    ],
)
def test_what_is_refused(refused, arguments, message):
    refused(message, "generate", *arguments)
