"""The test kit: assert that a layer or model has the symmetry it declares, and that it notices what is none.

It ships with the package, so that a layer of yours is tested in one line:

    assert_equivariant(lambda spec: MyLayer(spec, 3, 5), channels=3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from nfbench.weightspace.features import WeightSpaceFeatures, random_features
from nfbench.weightspace.permute import NeuronPermutation, permute_uncoupled
from nfbench.weightspace.spec import NetworkSpec, random_spec

Build = Callable[[NetworkSpec], nn.Module]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def _cases(
    kinds: tuple[str, ...], num_specs: int, seed: int, specs: Sequence[str] | None
) -> Iterator[tuple[NetworkSpec, torch.Generator]]:
    if specs is not None:
        yield from ((NetworkSpec.parse(text), torch.Generator().manual_seed(seed)) for text in specs)
        return
    for kind in kinds:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(num_specs):
            yield random_spec(generator, kind), generator


def _set_up(
    build: Build, spec: NetworkSpec, channels: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[nn.Module, WeightSpaceFeatures]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 30, (), generator=generator)))
        module = build(spec).to(dtype).eval()
    return module, random_features(spec, 2, channels, generator, dtype)


def _difference(a: WeightSpaceFeatures | Tensor, b: WeightSpaceFeatures | Tensor) -> float:
    """Largest difference relative to the largest entry."""
    a, b = (x.flatten() if isinstance(x, WeightSpaceFeatures) else x for x in (a, b))
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))


def assert_equivariant(
    build: Build,
    channels: int,
    group: str = "hnp",
    kinds: tuple[str, ...] = ("dense", "conv"),
    dtype: torch.dtype = torch.float64,
    num_specs: int = 5,
    seed: int = 0,
    specs: Sequence[str] | None = None,
) -> None:
    """Asserts layer(permuted features) == permuted layer(features), on random specs of 2 to 5 layers, 1 to 9 neurons.

    Args:
        build: makes the layer for a spec.
        channels: C of its input.
        group: "hnp" (hidden neurons) or "np" (inputs and outputs too).
        kinds: of specs: "dense", "conv".
        dtype: the tolerance is 1e-9 in float64, 1e-4 in float32, relative to the largest output.
        num_specs: of each kind.
        seed: of everything random.
        specs: in text form, instead of random ones.
    """
    for spec, generator in _cases(kinds, num_specs, seed, specs):
        module, x = _set_up(build, spec, channels, dtype, generator)
        permutation = NeuronPermutation.sample(spec, 2, generator, group)
        with torch.no_grad():
            error = _difference(permutation.apply(module(x)), module(permutation.apply(x)))
        assert error < TOLERANCE[dtype], f"not {group}-equivariant on {spec}: relative difference {error:.2e}"


def assert_invariant(
    build: Build,
    channels: int = 1,
    group: str = "hnp",
    kinds: tuple[str, ...] = ("dense", "conv"),
    dtype: torch.dtype = torch.float64,
    num_specs: int = 5,
    seed: int = 0,
    specs: Sequence[str] | None = None,
) -> None:
    """Asserts model(permuted features) == model(features); arguments as in `assert_equivariant`."""
    for spec, generator in _cases(kinds, num_specs, seed, specs):
        module, x = _set_up(build, spec, channels, dtype, generator)
        permutation = NeuronPermutation.sample(spec, 2, generator, group)
        with torch.no_grad():
            error = _difference(module(x), module(permutation.apply(x)))
        assert error < TOLERANCE[dtype], f"not {group}-invariant on {spec}: relative difference {error:.2e}"


def assert_not_equivariant(
    build: Build,
    channels: int,
    spec: NetworkSpec | str = "3-5-4-2:sine",
    change: str = "uncoupled",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> None:
    """Asserts that a change which is no symmetry of the networks is noticed: the negative of the tests above.

    Args:
        build: makes the layer or model for a spec.
        channels: C of its input.
        spec: the networks.
        change: "uncoupled" permutes the rows and columns of each tensor independently; "io" permutes inputs and
            outputs, which a layer with the HNP symmetry must notice.
        dtype: of the computation.
        seed: of everything random.

    Raises:
        ValueError: an unknown change.
    """
    spec = NetworkSpec.parse(spec) if isinstance(spec, str) else spec
    generator = torch.Generator().manual_seed(seed)
    module, x = _set_up(build, spec, channels, dtype, generator)
    with torch.no_grad():
        if change == "io":
            permutation = NeuronPermutation.sample(spec, 2, generator, "np")
            expected, got = module(x), module(permutation.apply(x))
            if isinstance(expected, WeightSpaceFeatures):
                expected = permutation.apply(expected)
            error = _difference(expected, got)
        elif change == "uncoupled":
            # A layer that respected uncoupled permutations would commute with this one.
            state = generator.get_state()
            changed = permute_uncoupled(x, generator)
            expected, got = module(x), module(changed)
            if isinstance(expected, WeightSpaceFeatures):
                expected = permute_uncoupled(expected, generator.set_state(state))
            error = _difference(expected, got)
        else:
            raise ValueError(f"change must be 'uncoupled' or 'io', got {change!r}")
    assert error > 1e-3, f"does not notice {change} permutations on {spec}: relative difference {error:.2e}"
