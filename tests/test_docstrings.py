"""The docstrings of the public names: what each must say. That the examples run is a test of test_readme."""

import ast
import builtins
import doctest
import inspect
import re

import pytest

import jaxdiff as jd

# Where a method was published; names without one are their own source.
SOURCES = {
    "Bootstrap": "10.1214/aos/1176344552",  # Efron 1979
    "CrankNicolson": "10.1017/S0305004100023197",  # Crank & Nicolson 1947
    "BackwardEuler": "10.1007/978-3-662-09017-6",  # Hundsdorfer & Verwer 2003
    "Diffusion": "Carslaw & Jaeger 1959",
    "Exponential": "10.1007/s10543-006-0077-9",  # Trefethen, Weideman & Schmelzer 2006
    "FiniteVolume": "10.1109/T-ED.1969.16566",  # Scharfetter & Gummel 1969
    "FokkerPlanck": "10.1007/978-3-642-61544-3",  # Risken 1989
    "ForwardEuler": "10.1007/978-3-662-09017-6",
    "LevenbergMarquardt": "10.1137/0111030",  # Marquardt 1963
    "Potential": "10.1016/0021-9991(70)90001-X",  # Chang & Cooper 1970
    "PassageTimes": "10.1037/0033-295X.85.2.59",  # Ratcliff 1978
    "RKL2": "10.1016/j.jcp.2013.08.021",  # Meyer, Balsara & Aslam 2014
    "RungeKutta4": "Kutta 1901",
    "Spectral": "10.1137/S0036144598336745",  # Strang 1999
    "Spline": "de Boor 2001",
    "Strang": "10.1137/0705041",  # Strang 1968
    "TRBDF2": "10.1109/TCAD.1985.1270142",  # Bank et al. 1985
    "Tensor": "10.1007/s10851-013-0446-3",  # Fehrenbach & Mirebeau 2014
    "bootstrap": "10.1214/aos/1176344552",
    "compare": "10.1214/aoms/1177732360",  # Wilks 1938
    "cross_validate": "10.1111/ecog.02881",  # Roberts et al. 2017
    "energy_distance": "10.1016/j.jspi.2013.03.018",  # Székely & Rizzo 2013
    "fit": "10.1016/0304-4076(85)90158-7",  # MacKinnon & White 1985
    "multistart": "10.1080/00401706.1979.10489755",  # McKay, Beckman & Conover 1979
    "kl_divergence": "10.1214/aoms/1177729694",  # Kullback & Leibler 1951
    "simulate": "10.1016/S0304-4149(99)00109-X",  # Gobet 2000
    "sweep": "https://proceedings.mlr.press/v51/jamieson16.html",  # Jamieson & Talwalkar 2016
    "solve": "10.1007/s10543-006-0077-9",
    "Samples": "10.1098/rsta.1922.0009",  # Fisher 1922
    "Trajectory": "10.1111/1468-0262.00274",  # Aït-Sahalia 2002
    "wasserstein": "10.1137/1118101",  # Vallender 1974
}
VALUES = {"absorbing": "Dirichlet", "reflecting": "Flux"}  # of a class that tells what they are
DOCUMENTED = [name for name in jd.__all__ if name not in VALUES and name not in ("datasets", "generation")]


def document(thing):
    return inspect.cleandoc(thing.__doc__ or "")


def named(text):
    """The names before the colon of every line `name: …` or `name, name: …`."""
    lines = re.findall(r"^\s*(\w+(?:, \w+)*):", text, re.MULTILINE)
    return {name for line in lines for name in line.split(", ")}


def test_the_package_lists_its_names():
    assert dir(jd) == sorted(jd.__all__) and len(set(jd.__all__)) == len(jd.__all__)
    assert set(jd.__all__) - set(re.findall(r"\w+", jd.__doc__)) == set()
    assert {name for name in vars(jd) if inspect.isclass(vars(jd)[name])} <= set(jd.__all__)
    for name, kind in VALUES.items():
        assert type(getattr(jd, name)) is getattr(jd, kind)


def undefined(program):
    """Names that a program reads and does not make."""
    tree = ast.parse(program)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    imported = [
        each for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for each in node.names
    ]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {
        each.asname or each.name for each in imported
    }
    made |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return {node.id for node in names} - made - set(dir(builtins))


@pytest.mark.parametrize("name", DOCUMENTED)
def test_an_example_runs_as_it_is_copied(name):
    for found in doctest.DocTestFinder(recurse=True).find(getattr(jd, name), name):
        assert undefined("".join(each.source for each in found.examples)) == set(), found.name


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_says(name):
    thing = getattr(jd, name)
    text = document(thing)
    summary, _, rest = text.partition("\n")
    assert summary.endswith(".") and (not rest or rest.startswith("\n")), "a summary on a line of its own"
    assert ">>> " in text, "an example"
    kinds = (inspect.Parameter.VAR_POSITIONAL,)
    asked = {each.name for each in inspect.signature(thing).parameters.values() if each.kind not in kinds}
    assert asked - named(text) == set(), "every argument by its name"
    assert SOURCES.get(name, "") in text, "where it comes from"
    if inspect.isclass(thing):
        made = [vars(thing)[each] for each in ("__init__", "__check_init__") if each in vars(thing)]
        written = [each for each in made if inspect.unwrap(each).__code__.co_filename.endswith(".py")]
    else:
        written = [thing] if inspect.isfunction(thing) else []
    refuses = any("raise " in inspect.getsource(inspect.unwrap(each)) for each in written)
    assert not refuses or "Raises:" in text, "what it refuses"


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if inspect.isclass(getattr(jd, name))])
def test_a_class_says_what_its_methods_do(name):
    for method, thing in vars(getattr(jd, name)).items():
        if method.startswith("_") or method in getattr(getattr(jd, name), "__annotations__", {}):
            continue
        if isinstance(thing, property) or callable(thing) or isinstance(thing, classmethod):
            assert inspect.getdoc(getattr(getattr(jd, name), method)), f"{name}.{method}"
