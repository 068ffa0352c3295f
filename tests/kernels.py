"""Which tests need a C++ compiler, and nothing else: a kernel that does not compile with one fails them."""

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
