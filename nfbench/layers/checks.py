"""What sizes and probabilities may be, said where they are given: torch takes many wrong ones without a word."""

from __future__ import annotations


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raises ValueError, with name and value, for a size below the least."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def check_dropouts(**dropouts: float) -> None:
    """Raises ValueError, with name and value, for a probability of dropout outside [0, 1)."""
    for name, dropout in dropouts.items():
        if not 0 <= dropout < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {dropout}")
