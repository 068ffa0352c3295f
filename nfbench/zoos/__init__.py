"""Zoos: sets of trained networks with labels, built or loaded, as Lightning DataModules.

Torch comes with `SirenZoo` only, when it is asked for: the config reads recipes, and `--help` must answer at once.
"""

from typing import TYPE_CHECKING, Any

from nfbench.zoos.recipe import DEFINITIONS, SirenRecipe, make_recipe

if TYPE_CHECKING:
    from nfbench.zoos.siren import SirenZoo

__all__ = ["DEFINITIONS", "SirenRecipe", "SirenZoo", "make_recipe"]


def __getattr__(name: str) -> Any:
    if name == "SirenZoo":
        from nfbench.zoos.siren import SirenZoo

        return SirenZoo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
