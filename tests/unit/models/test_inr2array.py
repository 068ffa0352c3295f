"""Inr2Array: published sizes, symmetry, each part against its formula, and that it learns."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nfbench.layers import CrossAttentionPool
from nfbench.models import GMN, NFN, NFT, FlatMLP, NFNGated, ResNFN, StatNN
from nfbench.models.decoder import SirenDecoder
from nfbench.models.inr2array import BLOCKS, Inr2Array, Inr2ArrayEncoder, LatentAutoencoder, ModelEncoder
from nfbench.models.latent import LatentTransformer
from nfbench.weightspace import NetworkSpec, NeuronPermutation, permute_uncoupled, random_features
from nfbench.weightspace.render import CellRenderer
from nfbench.weightspace.testing import assert_invariant, assert_not_equivariant

F64 = torch.float64
MNIST, CIFAR = NetworkSpec.parse("2-32-32-1:sine"), NetworkSpec.parse("2-32-32-3:sine")
SMALL = {"num_latents": 4, "width": 8, "num_blocks": 2, "num_heads": 2, "ff_factor": 2}


def encoder(block="nft", **changes):
    return lambda spec: Inr2ArrayEncoder(spec, block=block, **{**SMALL, **changes})


def sirens(spec, batch, dtype=F64):
    return random_features(spec, batch, 1, torch.Generator().manual_seed(0), dtype).map(lambda t: 0.3 * t)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_sizes():
    with torch.device("meta"):
        mnist, cifar = Inr2ArrayEncoder(MNIST), Inr2ArrayEncoder(CIFAR)
        classifier = LatentTransformer()
        assert count(mnist) == 21_200_640
        assert count(cifar) == 21_201_152
        assert {count(block) for block in cifar.blocks} == {3_356_928}
        assert (count(mnist.embed), count(cifar.embed), count(mnist.pool)) == (2_304, 2_816, 1_056_768)
        assert count(SirenDecoder(MNIST)) == 1_094_049
        assert count(SirenDecoder(CIFAR)) == 1_111_011
        assert count(SirenDecoder(CIFAR, kind="simple")) == 453_091
        assert count(SirenDecoder(CIFAR, kind="simple", additive=True)) == 453_091 + 1_257
        assert count(classifier) == 38_260_746
        assert count(classifier.blocks) == 12 * 3_152_384
        assert round((count(mnist) + count(classifier)) / 1e6, 2) == 59.46
        assert count(Inr2Array(CIFAR)) == 21_201_152 + 1_111_011


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["float64", "float32"])
def test_encoder_is_invariant_to_hidden_permutations_only(block, dtype):
    assert_invariant(encoder(block), dtype=dtype)
    assert_not_equivariant(encoder(block), channels=1)
    assert_not_equivariant(encoder(block), channels=1, change="io")


@pytest.mark.parametrize("kind", ["sitzmann", "simple"])
def test_autoencoder_is_invariant(kind):
    def build(spec):
        model = Inr2Array(spec, decoder=kind, **SMALL)
        for net in model.decoder.maps:
            nn.init.normal_(net[-1].weight)  # at its start the decoder hardly sees the latents
        return model

    assert Inr2Array.symmetry == Inr2ArrayEncoder.symmetry == "invariant"
    assert_invariant(build, kinds=("dense",))
    assert_not_equivariant(lambda spec: nn.Sequential(build(spec), Flat()), channels=1)


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten()


def test_without_space_the_latents_are_averaged():
    torch.manual_seed(0)
    model = encoder()(MNIST).double()
    x = sirens(MNIST, 3)
    z = model(x)
    assert z.shape == (3, 4, 8)
    model.spatial = False
    assert torch.allclose(model(x), z.mean(1, keepdim=True), rtol=1e-12)
    assert encoder(spatial=False)(MNIST).num_outputs == 1
    assert len(Inr2Array(MNIST, spatial=False, **SMALL)(x.to(torch.float32))) == 3


@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_reach_every_parameter(block):
    torch.manual_seed(0)
    model = Inr2Array(MNIST, block=block, additive=True, **SMALL)
    coords = torch.rand(9, 2) * 2 - 1
    CellRenderer(coords, 2)(model(sirens(MNIST, 2, torch.float32))).square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > 0.9 * len(gradients)


def test_pool_with_gated_feed_forward_by_hand():
    """The Perceiver's cross-attention: q from LN(latents), k and v from LN(tokens), residual, x + W(a gelu(b))."""
    torch.manual_seed(0)
    pool = CrossAttentionPool(6, 3, num_heads=1, gated=True).double()
    x = random_features(NetworkSpec.parse("2-3-1:sine"), 2, 6, torch.Generator().manual_seed(0), F64)
    for i in range(2):
        tokens = pool.norm_tokens(x[i].flatten()[0])
        k, v = (tokens @ w.T for w in pool.to_kv.weight.chunk(2))
        scores = pool.to_q(pool.norm_queries(pool.queries)) @ k.T / math.sqrt(6)
        z = pool.queries + pool.project(scores.softmax(-1) @ v)
        norm, expand, _, _, contract = pool.feed_forward
        a, b = expand(norm(z)).chunk(2, -1)
        assert a.shape == (3, 24)
        assert torch.allclose(pool(x)[i], z + contract(a * F.gelu(b)), rtol=1e-9)


@pytest.mark.parametrize("kind", ["sitzmann", "simple"])
def test_decoder_maps_each_latent_alone_and_in_order(kind):
    torch.manual_seed(0)
    decoder = SirenDecoder(MNIST, 6, kind, width=8).double()
    z = torch.randn(2, 3, 6, dtype=F64)
    out = decoder(z).check()
    assert (out.spec, len(out), out.channels) == (MNIST, 6, 1)
    for b in range(2):
        for m in range(3):
            alone = decoder(z[b : b + 1, m : m + 1]).flatten()
            assert torch.allclose(out[3 * b + m].flatten(), alone, rtol=1e-9)
    assert not torch.allclose(out[0].flatten(), out[1].flatten(), rtol=1e-6)


def test_decoder_starts():
    torch.manual_seed(0)
    maps = SirenDecoder(CIFAR).maps
    for i, net in enumerate(maps):
        assert [type(part) for part in net] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
        bound = 1 / 256 if i % 2 else 1 / CIFAR.layers[i // 2].in_size  # biases, weights of the SIREN
        assert bound * 0.3 < net[-1].bias.abs().max() <= bound
        assert math.isclose(net[-1].weight.std().item(), math.sqrt(2 / 256) / 100, rel_tol=0.15)


def test_additive_decoder_starts_at_a_fresh_siren():
    torch.manual_seed(0)
    decoder = SirenDecoder(MNIST, 6, "simple", width=8, additive=True)
    parts = decoder.base.detach().split(decoder.sizes)
    bounds = [1 / 2, 2**-0.5, math.sqrt(6 / 32) / 30, 32**-0.5, math.sqrt(6 / 32) / 30, 32**-0.5]
    for part, bound, scale in zip(parts, bounds, decoder.scales, strict=True):
        assert part.abs().max() <= bound
        if len(part) > 1:
            assert part.abs().max() > 0.7 * bound
            assert torch.isclose(scale, part.std())
        else:  # the only output's bias
            assert torch.isclose(scale, part.abs().squeeze())
    z = torch.randn(1, 2, 6)
    expected = [
        base + scale * delta
        for base, scale, delta in zip(
            parts, decoder.scales, decoder.maps[0](z).detach()[0].split(decoder.sizes, -1), strict=True
        )
    ]
    assert torch.allclose(decoder(z).flatten()[..., 0], torch.cat(expected, -1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["sitzmann", "simple"])
def test_gradients_agree_with_finite_differences(kind):
    torch.manual_seed(0)
    spec = NetworkSpec.parse("2-3-2:sine")
    decoder = SirenDecoder(spec, 3, kind, width=4, num_hidden=1, additive=True).double()
    grid = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 4, dtype=F64)])
    renderer = CellRenderer(grid, 2, w0_first=3.0, w0_hidden=2.0)
    names = [name for name, _ in decoder.named_parameters()]

    def draw(z, *values):
        return renderer(torch.func.functional_call(decoder, dict(zip(names, values, strict=True)), (z,)))

    z = torch.randn(1, 4, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(draw, (z, *decoder.parameters()))


def test_latent_transformer_by_hand():
    """Positions, one pre-norm layer, no norm after it, the first token into the MLP."""
    torch.manual_seed(0)
    model = LatentTransformer(3, 4, width=8, num_blocks=1, num_heads=2, ff_width=16, max_latents=5).double().eval()
    z = torch.randn(2, 5, 3, dtype=F64)
    x = model.project(z) + model.positions
    layer = model.blocks.layers[0]
    q, k, v = (
        F.linear(layer.norm1(x), w, b).unflatten(-1, (2, 4)).transpose(1, 2)
        for w, b in zip(layer.self_attn.in_proj_weight.chunk(3), layer.self_attn.in_proj_bias.chunk(3), strict=True)
    )
    scores = (q @ k.transpose(2, 3) / 2).softmax(-1)
    x = x + layer.self_attn.out_proj((scores @ v).transpose(1, 2).flatten(2))
    x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
    assert torch.allclose(model(z), model.head(x[:, 0]), rtol=1e-9)


def test_latent_transformer_sees_order_and_takes_fewer_latents():
    torch.manual_seed(0)
    model = LatentTransformer(3, 4, width=8, num_blocks=2, num_heads=2, ff_width=16, max_latents=6).double().eval()
    z = torch.randn(3, 6, 3, dtype=F64)
    assert model(z).shape == (3, 4)
    assert torch.allclose(model(z)[1:2], model(z[1:2]), rtol=1e-9)
    assert not torch.allclose(model(z), model(z.flip(1)), rtol=1e-3)
    swapped = z[:, [0, 2, 1, 3, 4, 5]]  # the first token stays, so this is noticed through positions alone
    assert not torch.allclose(model(z), model(swapped), rtol=1e-6)
    assert torch.equal(model(z[:, 0]), model(z[:, :1]))
    model.train()
    assert not torch.equal(model(z), model(z))


def test_learns_to_reconstruct():
    torch.manual_seed(0)
    spec = NetworkSpec.parse("2-8-1:sine")
    grid = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 6)])
    model = Inr2Array(spec, decoder="simple", additive=True, decoder_width=32, **{**SMALL, "width": 16})
    x = sirens(spec, 4, torch.float32).map(lambda t: t / 3)
    target = CellRenderer(grid)(x)
    renderer = CellRenderer(grid, 2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(renderer(model(x)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_errors_say_what_is_allowed():
    for wrong, message in (
        ({"width": 7}, "even, got 7"),
        ({"block": "hnp"}, "block one of nft, np, np_residual, hnp_residual, got 4 and 'hnp'"),
        ({"num_latents": 0}, "num_latents must be at least 1"),
        ({"num_heads": 3}, "multiple of num_heads"),
    ):
        with pytest.raises(ValueError, match=message):
            Inr2ArrayEncoder(MNIST, **{**SMALL, **wrong})
    with pytest.raises(ValueError, match="one of sitzmann, simple, got 'mlp'"):
        SirenDecoder(MNIST, kind="mlp")
    with pytest.raises(ValueError, match="only dense sine networks"):
        Inr2Array(NetworkSpec.parse("1-4c3-2:relu"), **SMALL)
    with pytest.raises(ValueError, match="multiple of num_heads, got 8 and 3"):
        LatentTransformer(width=8, num_heads=3)
    small = LatentTransformer(3, 4, width=8, num_blocks=1, num_heads=2, ff_width=16, max_latents=2)
    with pytest.raises(ValueError, match="3 latents and have 2 positions"):
        small(torch.zeros(1, 3, 3))


READERS = {
    "NFT": lambda spec: NFT(spec, 1, width=8, num_blocks=2, num_heads=2, ff_factor=2),
    "NFN": lambda spec: NFN(spec, 1, widths=[8, 6], fourier_size=4, head_width=4),
    "NFN hnp": lambda spec: NFN(spec, 1, "hnp", widths=[8], fourier_size=4, head_width=4),
    "ResNFN": lambda spec: ResNFN(spec, 1, width=8, fourier_size=4, head_width=4),
    "NFNGated": lambda spec: NFNGated(spec, 1, width=8, num_blocks=1, head_width=4),
    "GMN": lambda spec: GMN(spec, 1, width=8, num_rounds=2, head_width=4),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["float64", "float32"])
def test_any_equivariant_model_is_an_encoder(name, dtype):
    def build(spec):
        return ModelEncoder(spec, READERS[name](spec), num_latents=4)

    assert ModelEncoder.symmetry == "invariant"
    assert_invariant(build, dtype=dtype)
    assert_not_equivariant(build, channels=1)
    torch.manual_seed(0)
    model = build(MNIST)
    x = sirens(MNIST, 3, torch.float32)
    z = model(x)
    assert z.shape == (3, 4, model.width)
    assert model.width == (6 if name == "NFN" else 8)
    model.spatial = False
    assert torch.allclose(model(x), z.mean(1, keepdim=True), rtol=1e-4)
    z.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("spec", "count_of"), [(MNIST, 21_200_640), (CIFAR, 21_201_152)])
def test_an_nft_of_the_published_size_is_the_published_encoder(spec, count_of):
    with torch.device("meta"):
        nft = NFT(spec, 1, width=256, num_blocks=6, num_heads=4, ff_factor=4, fourier_scale=3.0)
        made, theirs = ModelEncoder(spec, nft), Inr2ArrayEncoder(spec)
    assert count(made) == count(theirs) == count_of
    assert sorted(p.shape for p in made.parameters()) == sorted(p.shape for p in theirs.parameters())
    small_nft = NFT(MNIST, 1, **{k: v for k, v in SMALL.items() if k != "num_latents"})
    small, other = ModelEncoder(MNIST, small_nft, 4), encoder()(MNIST)
    state = {key.removeprefix("model."): value for key, value in small.state_dict().items()}
    other.load_state_dict(state)
    x = sirens(MNIST, 2)
    assert torch.allclose(small.double()(x), other.double()(x), rtol=1e-9)


@pytest.mark.parametrize(("spec", "pixels"), [(MNIST, 28), (CIFAR, 32)])
@pytest.mark.parametrize("cells", [4, 16, 64])
def test_decoded_shapes_of_mnist_and_cifar(spec, pixels, cells):
    torch.manual_seed(0)
    model = LatentAutoencoder(ModelEncoder(spec, READERS["NFN"](spec), cells), SirenDecoder(spec, 6, width=8), 10)
    x = sirens(spec, 2, torch.float32)
    z = model.encode(x)
    assert z.shape == (2, cells, 6)
    assert model.classify(z).shape == (2, 10)
    decoded = model(x).check()
    assert (decoded.spec, len(decoded)) == (spec, 2 * cells)
    coords = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, pixels)])
    drawn = CellRenderer(coords, math.isqrt(cells))(decoded)
    assert drawn.shape == (2, pixels**2, spec.sizes[-1])


def test_latents_of_the_published_encoder_are_invariant():
    """Two blocks of the published width: the whole size in float64 would take a while."""
    torch.manual_seed(0)
    model = Inr2ArrayEncoder(MNIST, num_blocks=2).double()
    x = sirens(MNIST, 2)
    permutation = NeuronPermutation.sample(MNIST, 2, torch.Generator().manual_seed(1))
    z = model(x)
    assert z.shape == (2, 16, 256)
    assert torch.allclose(model(permutation.apply(x)), z, rtol=1e-9, atol=1e-9)
    other = permute_uncoupled(x, torch.Generator().manual_seed(1))
    assert not torch.allclose(model(other), z, rtol=1e-3)


def test_models_that_cannot_be_encoders():
    for model in (FlatMLP(MNIST, 1, width=8), StatNN(MNIST, 1, width=8), NFT(MNIST, None, width=8, num_blocks=1)):
        with pytest.raises(ValueError, match=r"cannot be an encoder.*nft, nfn_np"):
            ModelEncoder(MNIST, model)
    with pytest.raises(ValueError, match="num_latents must be at least 1, got 0"):
        ModelEncoder(MNIST, READERS["NFN"](MNIST), 0)
