"""From the command line to typed numbers. The only room that knows Hydra; nothing here but `build` imports torch."""

from nfbench.config.schema import register

__all__ = ["register"]
