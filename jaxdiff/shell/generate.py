"""jaxdiff generate: images from text, and the training of a model for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.runtime.staging import WRITTEN, replacing


def commands(prepare: Callable[[], Any]) -> Any:
    """The group `generate`, whose command is to draw where none is named; prepare: sets JAX up."""
    import click

    path = click.Path(path_type=Path)

    class Group(click.Group):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            named = args and args[0] in (*self.commands, "--help", "-h")
            return super().parse_args(ctx, args if named else ["draw", *args])

    @click.group(cls=Group)
    def generate() -> None:
        """Draw images of a caption: jaxdiff generate "a seven left of a three" --count 16 --output sevens.png; or `train` a model."""

    @generate.command()
    @click.argument("caption")
    @click.option("--count", type=int, default=16, show_default=True, help="How many images.")
    @click.option(
        "--output", type=path, default=Path("images.png"), show_default=True, help="A sheet (.png), or arrays (.npy)."
    )
    @click.option("--seed", type=int, default=0, show_default=True, help="The same draws the same images.")
    @click.option("--guidance", type=float, help="Above 0: closer to the caption, less variety.")
    @click.option("--model", type=path, help="A trained model in place of the one that ships: handwritten digits.")
    def draw(caption: str, output: Path, model: Path | None, **options: Any) -> None:
        """Draw images of CAPTION."""
        run_draw(prepare, caption, output, model, **options)

    @generate.command()
    @click.option(
        "--data",
        type=path,
        help="A folder of PNG files and captions.csv (file,caption); handwritten digits without it.",
    )
    @click.option("--output", type=path, default=Path("model.npz"), show_default=True, help="The model.")
    @click.option("--steps", type=int, help="How long.")
    @click.option("--seed", type=int, default=0, show_default=True, help="The same trains the same model.")
    def train(data: Path | None, output: Path, steps: int | None, seed: int) -> None:
        """Train a model; interrupted, the same command goes on from where it was."""
        run_train(prepare, data, output, steps, seed)

    return generate


def run_draw(prepare: Callable[[], Any], caption: str, output: Path, model: Path | None, **options: Any) -> None:
    if output.suffix.lower() not in (".png", ".npy"):
        raise ValueError(f"--output {output} must end in .png, for a sheet, or .npy, for arrays")
    from jaxdiff.figures import sheets
    from jaxdiff.generation.model import Generator

    prepare()
    generator = Generator.shipped() if model is None else Generator.load(model)
    images = generator.generate(caption, **options)
    with replacing(output) as part, part.open("wb") as file:
        if output.suffix.lower() == ".png":
            file.write(sheets.png(images))
        else:
            np.save(file, images)
    print(f"{len(images)} images of {images.shape[1]} × {images.shape[2]} pixels: {output}")
    if doubt := generator.vocabulary.doubt(caption):
        print(f"Note: {doubt}")


def run_train(prepare: Callable[[], Any], data: Path | None, output: Path, steps: int | None, seed: int) -> None:
    if not output.absolute().parent.is_dir():
        raise ValueError(f"--output {output} is in a folder that does not exist; make that first")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file, like {output / 'model.npz'}")
    from jaxdiff.datasets import captioned as images
    from jaxdiff.generation.training import Settings, train

    prepare()
    sets, held_out = images.digit_sets() if data is None else images.split(images.from_folder(data))
    chosen: dict[str, Any] = {"guidance": images.DIGIT_GUIDANCE} if data is None else {}
    chosen |= {"steps": steps} if steps is not None else {}
    settings = Settings(**chosen, seed=seed)
    if data is not None:  # images that are few are learned by heart in time
        settings = replace(settings, patience=max(settings.steps // 4, 500))
    unfinished = output.with_name(output.name + ".unfinished")
    made = train(*sets, held_out=held_out, settings=settings, save=unfinished, progress=sys.stderr.isatty())
    if made.training.ended.startswith("interrupted"):
        WRITTEN.append(unfinished)
        raise KeyboardInterrupt
    made.save(output)
    unfinished.unlink(missing_ok=True)
    training = made.training
    for note in filter(None, (training.ended, *training.notes)):
        print(f"Note: {note}")
    looks = training.looks[:, 1]
    loss = looks[-1] if training.best is None else looks.min()  # that of the weights which are kept
    print(f"Trained for {int(training.state.iteration)} steps, loss on held-out images {loss:.4g}\nModel: {output}")
