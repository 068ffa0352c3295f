"""Layers against their definitions, written out entry by entry, and the parameter counts of the papers' code."""

import math

import pytest
import torch

from nfbench.layers import (
    CrossAttentionPool,
    GaussianFourierFeatures,
    HNPLinear,
    HNPPool,
    IOSinusoidalEncoding,
    NFTBlock,
    NPAttention,
    NPLinear,
    NPPool,
)
from nfbench.layers.attend import cross_attention
from nfbench.models.decoder import SirenDecoder
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, random_features

F64 = torch.float64


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("num_layers", "expected"), [(2, 44), (3, 80), (4, 124), (5, 176)])
def test_np_linear_parameter_count(num_layers, expected):
    spec = NetworkSpec.parse("-".join(["4"] * (num_layers + 1)))
    assert count(NPLinear(spec, 1, 1)) == expected
    assert count(NPLinear(spec, 3, 5)) == (4 * num_layers**2 + 10 * num_layers - 4) * 15 + 6 * num_layers * 5


def test_published_parameter_counts():
    siren = NetworkSpec.parse("2-32-32-1:sine")
    assert count(NPLinear(siren, 512, 512)) == 16_262_144
    assert count(NFTBlock(siren, 256, num_heads=4, ff_factor=4)) == 3_356_928
    assert count(NPAttention(siren, 256, num_heads=4)) == 197_376


def test_np_linear_entry_by_entry():
    spec = NetworkSpec.parse("2-3-4-2:relu")
    generator = torch.Generator().manual_seed(0)
    layer, x = NPLinear(spec, 2, 3).to(F64), random_features(spec, 1, 2, generator, F64)
    w, v = [t[0, ..., 0, :] for t in x.weights], [t[0] for t in x.biases]
    pooled = torch.cat([part for a, b in zip(w, v, strict=True) for part in (a.mean((0, 1)), b.mean(0))])
    from_pooled = layer.pooled(pooled).split([3] * 6)

    def neuron(i, j):
        parts = [w[i - 1][j].mean(0), v[i - 1][j]] if i > 0 else []
        return torch.cat([*parts, w[i][:, j].mean(0)] if i < 3 else parts)

    out = layer(x)
    for i in range(3):
        rows, cols = spec.sizes[i + 1], spec.sizes[i]
        for r in range(rows):
            for s in range(cols):
                expected = layer.entry[i](w[i][r, s]) + from_pooled[2 * i]
                expected = expected + layer.neuron[i + 1](neuron(i + 1, r))[:3] + layer.neuron[i](neuron(i, s))[-3:]
                assert torch.allclose(out.weights[i][0, r, s, 0], expected, rtol=1e-12)
            expected = layer.neuron[i + 1](neuron(i + 1, r))[3:6] + from_pooled[2 * i + 1]
            assert torch.allclose(out.biases[i][0, r], expected, rtol=1e-12)


def test_attention_token_by_token():
    """Tokens of one neuron layer attend to each other; a weight sums what its row and its column receive."""
    spec, heads, width = NetworkSpec.parse("2-3-4:relu"), 2, 4
    layer = NPAttention(spec, width, heads).to(F64)
    x = random_features(spec, 1, width, torch.Generator().manual_seed(0), F64)
    size = width // heads
    got = layer(x)

    def attend(tokens):  # (tokens, n, 3, heads, size) -> (tokens, n, heads, size)
        out = torch.empty(tokens.shape[0], tokens.shape[1], heads, size, dtype=F64)
        for h in range(heads):
            q, k, v = (tokens[:, :, j, h].flatten(1) for j in range(3))
            scores = torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1)
            out[:, :, h] = (scores @ v).unflatten(1, (-1, size))
        return out

    qkv_w = [layer.to_qkv(t[0, ..., 0, :]).unflatten(-1, (3, heads, size)) for t in x.weights]
    qkv_b = [layer.to_qkv(t[0]).unflatten(-1, (3, heads, size)) for t in x.biases]
    means = torch.stack([m for w, b in zip(qkv_w, qkv_b, strict=True) for m in (w.mean((0, 1)), b.mean(0))])
    pooled = attend(means[:, None])[:, 0]  # (4, heads, size)
    inputs = attend(qkv_w[0])  # rows of W_1 over the inputs
    hidden = attend(torch.cat([qkv_w[0].transpose(0, 1), qkv_b[0][None], qkv_w[1]]))
    outputs = attend(torch.cat([qkv_w[1].transpose(0, 1), qkv_b[1][None]]))
    expected_w = [
        inputs + hidden[:2].transpose(0, 1) + pooled[0],
        hidden[3:] + outputs[:3].transpose(0, 1) + pooled[2],
    ]
    expected_b = [hidden[2] + pooled[1], outputs[3] + pooled[3]]
    for got_w, want in zip(got.weights, expected_w, strict=True):
        assert torch.allclose(got_w[0, ..., 0, :], want.flatten(-2), rtol=1e-9)
    for got_b, want in zip(got.biases, expected_b, strict=True):
        assert torch.allclose(got_b[0], want.flatten(-2), rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "np_outputs", "hnp_outputs"),
    [("2-32-32-1:sine", 6, 7), ("2-32-32-3:sine", 6, 11), ("1-16c3-16c3-16c3-10:relu", 32, 50)],
)
def test_pool_sizes(text, np_outputs, hnp_outputs):
    spec = NetworkSpec.parse(text)
    x = random_features(spec, 2, 3, torch.Generator().manual_seed(0))
    for pool, expected in ((NPPool(spec), np_outputs), (HNPPool(spec), hnp_outputs)):
        assert pool.num_outputs == expected
        assert pool(x).shape == (2, expected, 3)


def test_io_encoding_marks_inputs_and_outputs_only():
    spec = NetworkSpec.parse("2-3-4c1-5:relu")
    x = random_features(spec, 1, 1, torch.Generator().manual_seed(0))
    out = IOSinusoidalEncoding(spec, max_freq=10, num_bands=6)(x)
    assert out.channels == 14
    assert not out.weights[1][..., 1:].any()
    assert not out.biases[0][..., 1:].any()
    assert torch.equal(out.weights[0][0, 0, :, 0, -1], torch.tensor([-1.0, 1.0]))
    assert torch.equal(out.biases[-1][0, :, -1], torch.linspace(-1, 1, 5))
    assert torch.allclose(out.weights[0][0, 0, 0, 0, 1], torch.sin(torch.tensor(-math.pi)), atol=1e-6)


def test_bad_arguments_say_what_is_allowed():
    spec = NetworkSpec.parse("2-3-1:sine")
    with pytest.raises(ValueError, match="'fan_in' or 'kaiming'"):
        NPLinear(spec, 1, 1, init="zeros")
    with pytest.raises(ValueError, match="multiple of num_heads, got 6 and 4"):
        NPAttention(spec, 6, num_heads=4)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        CrossAttentionPool(6, 2, num_heads=4)
    with pytest.raises(ValueError, match="set it to False"):
        NPAttention(NetworkSpec.parse("2-3c3-1"), 4, 2, share_projections=True)
    with pytest.raises(ValueError, match="use NPLinear or Pointwise"):
        HNPLinear(NetworkSpec.parse("2-3"), 4, 4)


@pytest.mark.parametrize("text", ["2-3-2:sine", "3-2-1-2:sine", "2-3c1x2-2:relu"])
def test_gradients_agree_with_finite_differences(text):
    spec = NetworkSpec.parse(text)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(1, spec.num_params, 2, generator=generator, dtype=F64, requires_grad=True)
    for layer in (NPLinear(spec, 2, 2), NFTBlock(spec, 2, 1, ff_factor=1), NPAttention(spec, 2, 2, dropout=0.3)):

        def run(t, layer=layer):
            torch.manual_seed(0)  # the same dropout each time
            return layer.to(F64)(WeightSpaceFeatures.from_flat(spec, t)).flatten()

        assert torch.autograd.gradcheck(run, (flat,))


@pytest.mark.parametrize("name", ["NPLinear", "HNPLinear", "NFTBlock"])
def test_mixed_precision_goes_forward_and_backward(name):
    spec = NetworkSpec.parse("2-3-4-2:sine")
    layer = {"NPLinear": NPLinear, "HNPLinear": HNPLinear}.get(name, lambda s, c, _: NFTBlock(s, c, 2))(spec, 4, 4)
    x = random_features(spec, 2, 4, torch.Generator().manual_seed(0))
    grads = []
    for low in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = layer(x).flatten()
        y.float().square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in layer.parameters()]))
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()  # bfloat16 has 8 bits


def test_fourier_features_and_decoded_sirens_keep_their_precision_in_mixed_precision():
    spec = NetworkSpec.parse("2-3-4-2:sine")
    x = random_features(spec, 2, 1, torch.Generator().manual_seed(0)).map(lambda t: 5 * t)
    fourier, decoder = GaussianFourierFeatures(1, 8, scale=10.0), SirenDecoder(spec, 6, width=8)
    latents = torch.randn(2, 3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        features, sirens = fourier(x).flatten(), decoder(latents).flatten()
        lower = decoder(latents.bfloat16()).flatten()
    assert torch.equal(features, fourier(x).flatten())
    assert torch.equal(sirens, decoder(latents).flatten())
    assert features.dtype == sirens.dtype == lower.dtype == torch.float32


def test_attention_of_half_precision_has_no_overflow():
    """Products of 2,048 numbers pass 65,504, the largest of float16, before they are scaled and not after."""
    qkv_w = [torch.full((1, 3, 2, 3, 1, 1024), 8.0, dtype=torch.float16)]
    qkv_b = [torch.full((1, 3, 3, 1, 1024), 8.0, dtype=torch.float16)]
    (weights,), (biases,) = cross_attention(qkv_w, qkv_b)
    assert torch.equal(weights, torch.full((1, 3, 2, 1024), 16.0, dtype=torch.float16))
    assert torch.equal(biases, torch.full((1, 3, 1024), 8.0, dtype=torch.float16))


def test_attention_dropout_is_on_in_training_only():
    spec = NetworkSpec.parse("3-4-2:sine")
    layer = NPAttention(spec, 4, 2, dropout=0.5)
    plain = NPAttention(spec, 4, 2)
    plain.load_state_dict(layer.state_dict())
    x = random_features(spec, 2, 4, torch.Generator().manual_seed(0))
    assert torch.equal(layer.eval()(x).flatten(), plain(x).flatten())
    layer.train()
    torch.manual_seed(0)
    with torch.no_grad():
        mean = torch.stack([layer(x).flatten() for _ in range(4000)]).mean(0)
    # Dropout keeps the mean; 4,000 draws leave a standard error of about 0.01.
    assert (mean - plain(x).flatten()).abs().max() < 0.06
    assert not torch.equal(layer(x).flatten(), layer(x).flatten())
