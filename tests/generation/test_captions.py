"""Captions, images and their loaders, sheets: what they give, and what they refuse in one line."""

import builtins

import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets import captioned as images
from jaxdiff.datasets.vocabulary import Vocabulary, tokenise
from jaxdiff.figures import sheets

KNOWN = Vocabulary.of(["a seven left of a three", "the digit four", "two sixes"])


def refused(message, call, *args):
    with pytest.raises((ValueError, TypeError)) as raised:
        call(*args)
    text = str(raised.value)
    assert message in text and "\n" not in text and len(text) < 400


def test_case_punctuation_and_stop_words_say_nothing():
    for same in ("a seven left of a three", "SEVEN, left; THREE!", "  the digit seven left of a handwritten three. "):
        assert tokenise(same) == ["seven", "left", "three"]
        assert np.array_equal(KNOWN.numbers([same]), KNOWN.numbers(["seven left three"]))
    assert not np.array_equal(KNOWN.numbers(["seven left three"]), KNOWN.numbers(["three left seven"]))
    assert KNOWN.numbers(["four"]).tolist() == [[KNOWN.words.index("four") + 1, 0, 0]]


@pytest.mark.parametrize(
    "caption, message",
    [
        ("a sevem", "unknown word 'sevem' in 'a sevem'; did you mean 'seven'?"),
        ("a xylophone", "the model knows four, left, seven"),
        ("", "says nothing"),
        ("of the, a", "says nothing"),
        (7, "must be a text, got int"),
        ("seven left three four", "at most 3; shorten it"),
    ],
)
def test_captions_that_are_refused(caption, message):
    refused(message, KNOWN.numbers, [caption])


def test_captions_unlike_all_that_were_learned_from_are_doubted():
    assert [KNOWN.doubt(caption) for caption in ("seven left of three", "four", "two sixes")] == [""] * 3
    for caption, words in (
        ("four left of three", "'four' before 'left'"),
        ("seven", "'seven' at its end"),
        ("three", "'three' at its beginning"),
    ):
        assert f"no caption that was learned from has {words}" in KNOWN.doubt(caption)
    pairs, _, _ = images.two_digits(np.zeros((10, 8, 8), np.float32), np.arange(10), 3000)
    apart, _, _ = images.two_digits(np.zeros((10, 8, 8), np.float32), np.arange(10), 300, together=False)
    assert not any(map(Vocabulary.of(pairs.captions).doubt, apart.captions))  # a pair that is new is no strange caption


def test_two_digits_lie_where_the_caption_says():
    marks = (
        np.arange(1, 11, dtype=np.float32)[:, None, None] * np.ones((1, 8, 8), np.float32) / 10
    )  # digit k is 0.1 (k + 1)
    data, shown, places = images.two_digits(marks, np.arange(10), 400, seed=3)
    assert data.images.shape == (400, 16, 16)
    for image, caption, pair, ends in zip(data.images, data.captions, shown, places):
        words = tokenise(caption)
        if len(words) == 2:
            assert words == ["two", images.PLURALS[pair[0]]] and pair[0] == pair[1]
            continue
        first, word, second = words
        assert [images.NAMES.index(first), images.NAMES.index(second)] == pair.tolist()
        values = [image[y : y + 8, x : x + 8] for y, x in ends]
        assert [float(v.min()) for v in values] == [float(v.max()) for v in values] == pytest.approx((pair + 1) / 10)
        down, right = ends[1] - ends[0]
        assert (word == "left") == (right > 0) and (word == "right") == (right < 0)
        assert (word == "above") == (down > 0) and (word == "below") == (down < 0)
    apart = images.two_digits(marks, np.arange(10), 100, together=False)[1]
    assert {frozenset(pair) for pair in shown.tolist()}.isdisjoint({frozenset(pair) for pair in apart.tolist()})


def test_digits_need_their_package(monkeypatch):
    usual = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    refused("pip install jaxdiff[generate]", images.digits)


@pytest.mark.parametrize(
    "array, captions, message",
    [
        (np.zeros((3, 4)), ["a"] * 3, "an array (n, height, width), got shape (3, 4)"),
        (np.zeros((2, 4, 4, 3)), ["a"] * 2, "take one channel"),
        (np.zeros((3, 4, 4)), ["a"] * 2, "3 images and 2 captions; give one to each"),
        (np.zeros((3, 4, 4)), "abc", "3 images and 1 captions"),
        (np.full((1, 4, 4), 16.0), ["a"], "between 0 and 1, got 16 to 16"),
        (np.full((1, 4, 4), np.nan), ["a"], "between 0 and 1"),
        (np.full((1, 4, 4), "x"), ["a"], "must be real numbers"),
        (np.zeros((0, 4, 4)), [], "got shape (0, 4, 4)"),
    ],
)
def test_arrays_that_are_refused(array, captions, message):
    refused(message, images.captioned, array, captions)


@pytest.fixture
def folder(tmp_path):
    for k in range(3):
        Image.fromarray(np.full((4, 6), 40 * k, np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f'{k}.png,"one, {k}"\n' for k in range(3)))
    return tmp_path


def test_a_folder(folder):
    data = images.from_folder(folder)
    assert data.captions == ("one, 0", "one, 1", "one, 2")
    assert np.allclose(data.images, np.array([0, 40, 80])[:, None, None] / 255 * np.ones((3, 4, 6)))


def test_folders_that_are_refused(folder):
    refused("captions.csv is missing", images.from_folder, folder / "none")
    for name in ("MORE.PNG", "more.png"):
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / name)
        refused("1 images have no caption", images.from_folder, folder)
        (folder / name).unlink()
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(folder / "more.png")
    table = folder / "captions.csv"
    table.write_text(table.read_text() + "more.png,b\n")
    refused("6 × 4 and 4 × 6 pixels", images.from_folder, folder)
    (folder / "more.png").write_bytes(b"\x89PNG nothing")
    refused("more.png cannot be read as a PNG file", images.from_folder, folder)
    table.write_text("name,caption\n")
    refused("must have columns file and caption", images.from_folder, folder)
    table.write_text("file,caption\n")
    refused("has no rows", images.from_folder, folder)


def test_a_sheet_is_row_after_row_without_a_frame():
    tiles = np.arange(5)[:, None, None] / 10 * np.ones((5, 4, 3))
    drawn = sheets.sheet(tiles, scale=2)
    assert drawn.shape == (2 * 4 * 2, 3 * 3 * 2) and drawn.dtype == np.uint8
    for k in range(6):
        row, column = divmod(k, 3)
        part = drawn[8 * row : 8 * row + 8, 6 * column : 6 * column + 6]
        assert (part == (round(25.5 * k) if k < 5 else 0)).all()


def test_pictures_that_would_be_read_wrong(tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\n0.png,one, left of two\n")
    refused("put captions with commas in quotes", images.from_folder, tmp_path)
    table.write_bytes("file,caption\n0.png,caf\xe9\n".encode("latin-1"))
    refused("cannot be read as text in UTF-8", images.from_folder, tmp_path)
    table.write_text("file,caption\n0.png,one\n")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(tmp_path / "0.png")
    refused("16 bits", images.from_folder, tmp_path)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "0.png")
    refused("transparent", images.from_folder, tmp_path)
    refused("nothing above 1", images.captioned, np.ones((1, 4, 4), np.uint8), ["a"])
