"""Zoos: sets of trained networks with labels, built or loaded, as Lightning DataModules.

Torch comes with `SirenZoo`, `ShapesZoo` and `InrFileZoo` only, when they are asked for: the config reads recipes, and
`--help` must answer at once.
"""

from typing import TYPE_CHECKING, Any

from nfbench.zoos.recipe import DEFINITIONS, SirenRecipe, make_recipe

if TYPE_CHECKING:
    from nfbench.zoos.imported import InrFileZoo
    from nfbench.zoos.shapes import ShapesZoo
    from nfbench.zoos.siren import SirenZoo

__all__ = ["DEFINITIONS", "InrFileZoo", "ShapesZoo", "SirenRecipe", "SirenZoo", "make_recipe"]


def __getattr__(name: str) -> Any:
    if name == "SirenZoo":
        from nfbench.zoos.siren import SirenZoo

        return SirenZoo
    if name == "ShapesZoo":
        from nfbench.zoos.shapes import ShapesZoo

        return ShapesZoo
    if name == "InrFileZoo":
        from nfbench.zoos.imported import InrFileZoo

        return InrFileZoo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
