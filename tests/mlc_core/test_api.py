"""What `mlc_core` offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mlc_core

NO_SEARCH = ("optuna", "sqlalchemy", "typer", "rich", "search", "studies")


def loaded_after(code: str) -> set[str]:
    """The packages in a fresh interpreter that ran the code."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in told.stdout.split()}


def test_importing_the_core_and_building_params_loads_nothing_heavy() -> None:
    loaded = loaded_after("import mlc_core; mlc_core.Params.from_flat({'lr': 0.1})")
    assert "mlc_core" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "safetensors", "numpy", *NO_SEARCH}


def test_no_module_of_the_core_loads_anything_of_a_search() -> None:
    loaded = loaded_after(
        "import mlc_core, importlib, pkgutil\n"
        "modules = list(pkgutil.walk_packages(mlc_core.__path__, 'mlc_core.'))\n"
        "assert len(modules) > 12\n"
        "for module in modules: importlib.import_module(module.name)"
    )
    assert {"torch", "torchvision", "safetensors"} <= loaded
    assert not loaded & set(NO_SEARCH)


def test_fit_and_digits_come_from_the_package_itself() -> None:
    from mlc_core import digits, fit

    assert (fit.__module__, digits.__module__) == ("mlc_core.training", "mlc_core.data.digits")


@pytest.mark.parametrize("name", mlc_core.__all__)
def test_every_name_that_is_offered_is_there(name: str) -> None:
    assert getattr(mlc_core, name).__class__ is not None
    assert name in mlc_core.__all__


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        mlc_core.trian  # noqa: B018 - looking it up is the act
    assert str(caught.value) == "module 'mlc_core' has no attribute 'trian'"
    with pytest.raises(ImportError, match="cannot import name 'trian' from 'mlc_core'"):
        from mlc_core import trian  # noqa: F401 - it is not there
