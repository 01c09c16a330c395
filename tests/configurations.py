"""Configuration files that several tests start from: the cooling wall of the attacks, and dictionaries of sections."""

import re

from jaxdiff.benchmarks.attacks.examples import EXAMPLES
from jaxdiff.shell.config import parse


def changed(text, *changes):
    """A configuration in which each old text, which stands there once, gives way to a new one."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def sections(text, *names):
    """These sections of a configuration."""
    return "".join(part for part in re.split(r"^(?=\[)", text, flags=re.M) if part[1:].split("]")[0] in names)


WALL = changed(
    EXAMPLES["wall"], ('[labels]\nx = "x / m"\n', ""), ("start = 0.2", "start = 0.1"), ("sigma = 0.05\n", "")
)


def problem(tmp_path, table=None, *, grid=None, **changes):
    """The smallest problem with these sections put in; None leaves one out."""
    content = {
        "equation": {"kind": "diffusion", "diffusivity": "D"},
        "parameters": {"D": {"start": 2.0, "positive": True}},
        "grid": grid or {"lower": 0.0, "upper": 1.0, "cells": 10},
        "initial": 20.0,
        **changes,
    }
    if table is not None:
        table.to_csv(tmp_path / "table.csv", index=False)
        content["data"] = {"table": "table.csv", **content.get("data", {})}
    return parse({key: value for key, value in content.items() if value is not None}, tmp_path)
