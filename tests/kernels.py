"""What tests of compiled kernels need: a compiler and nothing else. A kernel that does not compile fails them."""

import platform

import pytest

from nfbench.zoos.kernel import KernelUnavailable, find_compiler


def has_compiler() -> bool:
    """Whether kernels can be compiled here."""
    try:
        find_compiler()
    except KernelUnavailable:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
other_instructions = pytest.mark.skipif(platform.machine() != "x86_64", reason="these flags are of x86")
