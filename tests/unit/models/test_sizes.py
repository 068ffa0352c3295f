"""The configs of the papers' sizes have the parameter counts of the authors' nets, to the digit."""

import pytest
import torch

from nfbench.config.build import build_model
from nfbench.layers import ChannelLayerNorm, NFTBlock, NPAttention, Pointwise
from nfbench.weightspace import NetworkSpec

MNIST, CIFAR, CNN = "2-32-32-1:sine", "2-32-32-3:sine", "1-16c3-16c3-16c3-10:relu"
CLASSIFIERS = {  # of INRs
    ("experiment=nfn_hnp_mnist", MNIST): 68_844_330,
    ("experiment=nfn_hnp_fashion", MNIST): 68_844_330,
    ("experiment=nfn_hnp_cifar10", CIFAR): 135_126_826,
    ("experiment=nfn_np_mnist", MNIST): 45_668_650,
    ("experiment=nfn_np_fashion", MNIST): 45_668_650,
    ("experiment=nfn_np_cifar10", CIFAR): 47_716_650,
    ("experiment=mlp_mnist", MNIST): 2_197_010,
    ("experiment=mlp_aug_mnist", MNIST): 2_197_010,
    ("experiment=mlp_cifar10", CIFAR): 2_263_010,
    ("experiment=mlp_aug_cifar10", CIFAR): 2_263_010,
    ("experiment=mlp_cifar10 model.width=4000", CIFAR): 21_052_010,
    ("experiment=mlp_cifar10 model.width=8000", CIFAR): 74_104_010,
    ("model=paper/mlp_med", CIFAR): 81_325_010,
    ("model=paper/mlp_big", CIFAR): 134_972_510,
}
EDITORS = {
    ("model=paper/nfn_hnp_edit", MNIST): 6_440_853,
    ("model=paper/nfn_hnp_edit", CIFAR): 12_878_235,
    ("model=paper/nfn_np_edit", MNIST): 4_133_656,
    ("model=paper/nfn_np_edit", CIFAR): 4_133_656,
    ("model=paper/nfn_pt_edit", MNIST): 401_676,
    ("model=paper/nfn_pt_edit", CIFAR): 401_676,
    ("model=paper/mlp_edit", MNIST): 4_374_191,
    ("model=paper/mlp_aug_edit", MNIST): 4_374_191,
    ("model=paper/mlp_edit", CIFAR): 4_506_257,
}
PREDICTORS = {  # of the accuracy of CNNs
    ("model=paper/nfn_hnp_cnn", CNN): 2_811_743,
    ("model=paper/nfn_np_cnn", CNN): 2_031_390,
    ("model=paper/nfn_pt_cnn", CNN): 1_341_481,
    ("model=statnn", CNN): 1_059_001,
}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def size(composed, overrides: str, text: str, out_dim: int | None) -> int:
    with torch.device("meta"):  # no memory for up to half a gigabyte of weights
        return count(build_model(composed(*overrides.split()).model, spec=NetworkSpec.parse(text), out_dim=out_dim))


@pytest.mark.parametrize(
    ("case", "out_dim", "published"),
    [(case, 10, number) for case, number in CLASSIFIERS.items()]
    + [(case, None, number) for case, number in EDITORS.items()]
    + [(case, 1, number) for case, number in PREDICTORS.items()],
)
def test_published_sizes(composed, case: tuple[str, str], out_dim: int | None, published: int) -> None:
    assert size(composed, *case, out_dim) == published


def test_one_block_of_the_transformer() -> None:
    spec = NetworkSpec.parse(MNIST)
    with torch.device("meta"):
        block = NFTBlock(spec, 256, num_heads=4, ff_factor=4)
    assert count(block) == 3_356_928
    assert [count(m) for m in block.modules() if isinstance(m, NPAttention)] == [197_376]
    assert [count(m) for m in block.modules() if isinstance(m, ChannelLayerNorm)] == [3_072, 3_072]
    assert sum(count(m) for m in block.modules() if isinstance(m, Pointwise)) == 3_153_408


def test_the_authors_residual_net(composed) -> None:
    """Nobody printed its size: 62 c_in c_out + 18 c_out for each NP layer of 3-layer nets (L = 3), norms, and head."""
    layers = (62 * 269 * 512 + 18 * 512) + 3 * (62 * 512 * 512 + 18 * 512)
    norms = 2 * 6 * 2 * 512
    head = (7 * 512 + 1) * 1000 + 1001 * 1000 + 1001 * 10 + 2 * 2 * 1000
    assert size(composed, "model=paper/nfn_res_512", MNIST, 10) == layers + norms + head
