"""Zoos: sets of trained networks with labels, built or loaded, as Lightning DataModules."""

from nfbench.zoos.recipe import DEFINITIONS, SirenRecipe, make_recipe
from nfbench.zoos.siren import SirenZoo

__all__ = ["DEFINITIONS", "SirenRecipe", "SirenZoo", "make_recipe"]
