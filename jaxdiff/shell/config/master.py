"""The [states] of a configuration file, and the rates between them in its [equation]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxdiff.model.coefficients import varies
from jaxdiff.model.master import MasterEquation
from jaxdiff.model.rates import Reaction
from jaxdiff.model.states import States
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.shell.config.keys import check_keys, checked_names, count, listed, mapping, text, text_or_number

WAYS = ("rates", "birth", "reactions")


def read_states(table: Any, equation: Any) -> States:
    """The states: by their names, a number of them, or the largest count of each species."""
    table = mapping(table or {}, "[states]", "{ largest = { mRNA = 100 } }")
    check_keys(table, "[states]", ("names", "count", "largest"))
    if not table and isinstance(equation.get("rates"), list):
        return States(len(equation["rates"]))
    if len(table) != 1:
        raise ValueError("a master equation needs [states] with one of names, count, largest = { n = 100 }")
    if "names" in table:
        return States(listed(table["names"], "[states] names", text))
    if "count" in table:
        return States(count(table["count"], "[states] count"))
    largest = checked_names(mapping(table["largest"], "[states] largest", "{ n = 100 }"), "[states] largest")
    return States({name: count(most, f"[states] largest {name}", 0) for name, most in largest.items()})


def read_rates(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table [equation] of a master equation, checked."""
    check_keys(table, "[equation]", ("kind", *WAYS, "death"))
    given = [way for way in WAYS if way in table]
    if len(given) != 1 or ("death" in table) != ("birth" in table):
        raise ValueError("[equation] of kind 'master' has rates, or birth and death, or reactions; give one of them")
    found: dict[str, Any] = {"kind": "master"}
    if "rates" in table:
        row = lambda value, where: listed(value, where, text_or_number)
        found["rates"] = listed(table["rates"], "[equation] rates", row)
    elif "birth" in table:
        found |= {key: text_or_number(table[key], f"[equation] {key}") for key in ("birth", "death")}
    else:
        found["reactions"] = listed(table["reactions"], "[equation] reactions", _reaction)
    return found


def _reaction(value: Any, where: str) -> list[Any]:
    """[reactants and products, rate] of one reaction."""
    table = mapping(value, where, '{ reactants = { A = 2 }, products = { B = 1 }, rate = "k" }')
    check_keys(table, where, ("reactants", "products", "rate"))
    if "rate" not in table:
        raise ValueError(f"{where} has no rate; give a number or an expression such as 'k'")
    sides = {
        side: {
            name: count(many, f"{where} {side} {name}")
            for name, many in mapping(table.get(side, {}), where, "{ A = 1 }").items()
        }
        for side in ("reactants", "products")
    }
    return [sides, text_or_number(table["rate"], f"{where} rate")]


def equation(table: Mapping[str, Any], read: Callable[[Any, str], Any]) -> MasterEquation:
    """The equation; `read` makes a coefficient of a text or a number."""
    if "birth" in table:
        return MasterEquation(*(read(table[key], f"[equation] {key}") for key in ("birth", "death")))
    if "reactions" in table:
        rate = lambda value: read(value, "[equation] reactions")
        return MasterEquation.from_reactions(
            [Reaction(rate=rate(value), **sides) for sides, value in table["reactions"]]
        )
    rows = [[read(value, "[equation] rates") for value in row] for row in table["rates"]]
    entries = [entry for row in rows for entry in row]
    if not any(map(varies, entries)):
        if any(map(callable, entries)):
            raise ValueError(
                "[equation] rates: an entry is a number, and holds no count of a state; write birth and death"
            )
        return MasterEquation(jnp.asarray([[jnp.asarray(entry) for entry in row] for row in rows]))
    at = lambda entry, t: entry(t) if varies(entry) else entry
    return MasterEquation(TimeDependent(lambda t: jnp.asarray([[at(entry, t) for entry in row] for row in rows])))
