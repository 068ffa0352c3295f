"""Zoos of winning tickets: training, pruning and scores against hand-written references; builds; the zoo contract."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from nfbench.weightspace import NetworkSpec, Pruning, ZooBatch
from nfbench.zoos import ticket_build, ticket_train
from nfbench.zoos.cnn_images import ClassifierImages
from nfbench.zoos.shards import Shard, build_shard, merge_shards
from nfbench.zoos.store import read_zoo
from nfbench.zoos.ticket_recipe import BASELINES, TicketRecipe
from nfbench.zoos.ticket_train import TEMPERATURE, TicketTrainer, baseline_masks
from nfbench.zoos.tickets import TicketZoo

MLP, CNN = NetworkSpec.parse("64-9-8-10:relu"), NetworkSpec.parse("2-4c3-5c3-6-10:relu")
RECIPE = TicketRecipe(sparsity=0.8, lr=1e-2, epochs=3, batch_size=16, score_images=32)


def make_images(channels: int, side: int = 8) -> ClassifierImages:
    random = np.random.default_rng(0)
    pixels = random.random((80, side, side, channels), np.float32) * 2 - 1
    rows = np.arange(80, dtype=np.int32)
    labels = (np.abs(pixels).mean((1, 2, 3)) * 100).astype(np.int32) % 10
    return ClassifierImages(pixels, labels, rows[:60], rows[60:], "random", "random")


def make_trainer(spec: NetworkSpec, **changes) -> TicketTrainer:
    images = make_images(2 if spec.layers[0].is_conv else 1)
    return TicketTrainer(spec, dataclasses.replace(RECIPE, **changes), images, dtype=torch.float64)


def make_module(spec: NetworkSpec, flat: torch.Tensor) -> nn.Sequential:
    parts: list[nn.Module] = []
    for i, layer in enumerate(spec.layers):
        if layer.is_conv:
            parts.append(nn.Conv2d(layer.in_size, layer.out_size, layer.kernel, stride=2))
        else:
            flatten = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if i and spec.layers[i - 1].is_conv else []
            parts += [*flatten, nn.Linear(layer.in_size, layer.out_size)]
        parts += [nn.ReLU()] if i + 1 < spec.num_layers else []
    module = nn.Sequential(*parts).double()
    nn.utils.vector_to_parameters(flat.clone(), module.parameters())
    return module


def train_by_hand(trainer: TicketTrainer, flat: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One network with torch's own modules and optimiser; the weights outside of the mask are set back to zero."""
    recipe = trainer.recipe
    module = make_module(trainer.spec, flat if mask is None else flat * mask)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[recipe.optimizer]
    optimizer = kind(module.parameters(), recipe.lr, **({"momentum": 0.9} if recipe.optimizer == "sgd" else {}))
    for epoch in range(recipe.epochs):
        for rows in torch.from_numpy(recipe.batches(trainer.train_rows, epoch)).long():
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(trainer.pixels[rows]), trainer.labels[rows]).backward()
            optimizer.step()
            if mask is not None:
                with torch.no_grad():
                    now = nn.utils.parameters_to_vector(module.parameters())
                    nn.utils.vector_to_parameters(now * mask, module.parameters())
    return nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("spec", [MLP, CNN], ids=["mlp", "cnn"])
def test_pruning_is_that_of_a_hand_written_reference(spec, optimizer):
    trainer = make_trainer(spec, optimizer=optimizer)
    trainer.stack = 2  # a stack of two and one of one
    init = trainer.draw_params([0, 1, 2])
    dense = trainer.train(init)
    mask = trainer.pruning.keep_largest(spec, dense.abs())
    ticket = trainer.train(init, mask)
    num_prunable = sum(layer.num_weights for layer in spec.layers)
    for i, start in enumerate(init):
        by_hand = train_by_hand(trainer, start, None)
        assert torch.allclose(dense[i], by_hand, atol=1e-9)
        weights = [by_hand[where] for where in spec.scalar_slices()[::2]]
        bound = torch.cat(weights).abs().sort(descending=True).values[round(0.2 * num_prunable) - 1]
        kept = torch.ones(spec.num_params, dtype=torch.bool)
        for where in spec.scalar_slices()[::2]:
            kept[where] = by_hand[where].abs() >= bound
        assert torch.equal(mask[i], kept)
        assert torch.allclose(ticket[i], train_by_hand(trainer, start, kept), atol=1e-9)
        assert (ticket[i][~kept] == 0).all()
        right = make_module(spec, ticket[i])(trainer.pixels[60:]).argmax(1) == trainer.labels[60:]
        assert trainer.accuracy(ticket)[i] == pytest.approx(right.double().mean().item())


@pytest.mark.parametrize("fast", [True, False])
def test_the_shared_product(fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(ticket_train, "ONEDNN", None)
    weight, x = torch.randn(40, 33, requires_grad=True), torch.randn(21, 33)
    out = ticket_train.SharedProduct.apply(weight, x)
    grad = torch.randn(40, 21)
    assert torch.allclose(out, weight @ x.t(), atol=1e-4)
    assert torch.allclose(torch.autograd.grad(out, weight, grad)[0], grad @ x, atol=1e-4)


@pytest.mark.parametrize("spec", [MLP, CNN], ids=["mlp", "cnn"])
def test_snip_and_grasp(spec):
    trainer = make_trainer(spec)
    trainer.stack = 2
    init = trainer.draw_params([0, 1, 2])
    rows = torch.arange(32)
    for i, start in enumerate(init):
        module = make_module(spec, start)
        names = [name for name, _ in module.named_parameters()]
        shapes = [p.shape for p in module.parameters()]

        def loss(flat, temperature, module=module, names=names, shapes=shapes):
            parts = flat.split([shape.numel() for shape in shapes])
            values = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
            logits = functional_call(module, values, trainer.pixels[rows]) / temperature
            return nn.functional.cross_entropy(logits, trainer.labels[rows])

        (grad,) = torch.autograd.grad(loss(start.requires_grad_(), 1.0), start)
        assert torch.allclose(trainer.snip(init.detach())[i], (start * grad).abs().detach(), atol=1e-12)
        flat = start.detach()
        hessian = torch.autograd.functional.hessian(lambda x: loss(x, TEMPERATURE), flat)
        point = flat.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point, TEMPERATURE), point)
        assert torch.allclose(trainer.grasp(init.detach())[i], flat * (hessian @ gradient), atol=1e-14)


def test_baselines_have_the_tickets_sparsity():
    trainer = make_trainer(MLP)
    init = trainer.draw_params([0, 1])
    imp = trainer.pruning.keep_largest(MLP, trainer.train(init).abs())
    masks = baseline_masks(trainer, init, imp, [0, 1])
    assert set(masks) == set(BASELINES)
    prunable, count = trainer.pruning.prunable(MLP), trainer.pruning.num_kept(MLP)
    for name, mask in masks.items():
        assert (mask & prunable).sum(1).tolist() == [count, count], name
    for where in MLP.scalar_slices():
        for name in ("random_layer", "magnitude_layer"):
            assert torch.equal(masks[name][:, where].sum(1), imp[:, where].sum(1))
    assert torch.equal(masks["magnitude"], trainer.pruning.keep_largest(MLP, init.abs()))
    again = baseline_masks(trainer, init[1:], imp[1:], [1])
    for name in masks:
        assert torch.equal(again[name], masks[name][1:]), f"{name} depends on the pair alone"


def test_pairs_do_not_depend_on_their_company():
    trainer = make_trainer(MLP)
    whole = trainer.train(trainer.draw_params(range(5)))
    assert torch.allclose(trainer.train(trainer.draw_params([3])), whole[3:4], atol=1e-9)
    assert not torch.allclose(whole[3], whole[4])


@pytest.fixture
def make_zoo(tmp_path, monkeypatch):
    """Nine pairs of a tiny MLP on doubled digits, in chunks of 4; keyword arguments override."""
    monkeypatch.setattr(ticket_build, "stack_size", lambda *_: 4)

    def make(folder: str = "zoos", **overrides) -> TicketZoo:
        values = {"source": "digits", "size": "tiny", "num_pairs": 5, "num_val_pairs": 2, "num_test_pairs": 2,
                  "epochs": 4, "lr": 5e-3, "zoo_dir": str(tmp_path / folder)}  # fmt: skip
        return TicketZoo(**{**values, **overrides})

    return make


def loaded(zoo: TicketZoo) -> TicketZoo:
    zoo.prepare_data()
    zoo.setup("fit")
    return zoo


@pytest.mark.parametrize(("scope", "biases"), [("global", False), ("layer", True)])
def test_contract(make_zoo, scope, biases):
    zoo = make_zoo(scope=scope, prune_biases=biases)
    protocol, spec = zoo.protocol, zoo.spec
    assert not zoo.path.exists(), "the spec is known before any data is there"
    assert protocol.items() <= loaded(zoo).protocol.items()
    assert all(isinstance(value, str | int | float | bool) for value in zoo.protocol.values())
    loader = zoo.train_dataloader()
    seen = {}
    for part, batches in (("train", list(loader)), ("val", zoo.val_dataloader()), ("test", zoo.test_dataloader())):
        seen[part] = sorted(i for batch in batches for i in batch.index.tolist())
        for batch in batches:
            assert isinstance(batch, ZooBatch)
            assert batch.features.check().channels == 1, "the initialisation alone"
            assert batch.target.shape == (len(batch.index), spec.num_params)
            rule = Pruning(**zoo.pruning)
            kept = (batch.target.bool() & rule.prunable(spec)).sum(1)
            assert set(kept.tolist()) == {rule.num_kept(spec)}, "exactly the stated sparsity"
    assert seen == {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [7, 8]}
    loader.sampler.set_epoch(1)
    assert [b.index.tolist() for b in loader] != [b.index.tolist() for b in zoo.train_dataloader()]
    flat = torch.cat([b.features.flatten()[..., 0] for b in zoo.train_dataloader()])
    assert flat[:, spec.scalar_slices()[0]].std().item() == pytest.approx(1, abs=1e-3)
    assert loaded(make_zoo(scope=scope, prune_biases=biases, standardize="none")).tables.ready[0].std() < 0.5


def test_what_is_stored(make_zoo):
    zoo = loaded(make_zoo())
    data = read_zoo(zoo.path, zoo.plan.manifest())
    assert data.extra["mask"].shape == data.params.shape == (9, zoo.spec.num_params)
    assert data.extra["mask"].dtype == np.uint8
    assert np.isfinite(data.extra["accuracy.snip"]).tolist() == [False] * 7 + [True] * 2
    index = torch.tensor([7, 8])
    masks, known = zoo.known_masks(index), zoo.known_accuracy()
    assert set(known) == {"dense", *masks}
    for name, mask in masks.items():
        assert zoo.mask_accuracy(index, mask) == pytest.approx(known[name], abs=0.02), name
    assert torch.equal(masks["imp"], torch.from_numpy(data.extra["mask"][7:]).bool())
    anew = zoo.known_masks(index, 0.8)
    assert {int(mask[0, Pruning().prunable(zoo.spec)].sum()) for mask in anew.values()} == {
        Pruning(0.8).num_kept(zoo.spec)
    }
    same = zoo.known_masks(index, 0.9500000001)["imp"]
    assert (same != masks["imp"]).float().mean() < 1e-3, "pruned anew, the same tickets"


def test_a_resumed_build_is_the_same(make_zoo, monkeypatch):
    whole, broken = make_zoo("whole"), make_zoo("broken")
    whole.prepare_data()
    real, calls = ticket_build.make_pairs, []

    def killed(*args):
        calls.append(args[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(ticket_build, "make_pairs", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.prepare_data()
    assert not broken.path.exists()
    broken.prepare_data()
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7], [8]]
    assert_same(read_zoo(whole.path), read_zoo(broken.path))


def test_shards_make_the_same_zoo(make_zoo):
    whole, parts = make_zoo("whole"), make_zoo("parts")
    whole.prepare_data()
    for number in (2, 1):
        build_shard(parts.path, parts.plan, Shard(number, 2), "data")
    data, wanted = merge_shards(parts.path, parts.plan, "data"), read_zoo(whole.path)
    assert np.array_equal(data.params, wanted.params)
    assert (data.extra["mask"] != wanted.extra["mask"]).mean() < 1e-3, "stacks of another size round otherwise"


def assert_same(first, second) -> None:
    assert np.array_equal(first.params, second.params)
    assert first.extra.keys() == second.extra.keys()
    for name, values in first.extra.items():
        assert np.array_equal(values, second.extra[name], equal_nan=values.dtype.kind == "f"), name
    assert first.manifest == second.manifest


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"source": "svhn"}, "digits, cifar10"),
        ({"size": "huge"}, "tiny, cpu, full"),
        ({"spec": "64-8-10:relu"}, "begin with 1 .* or 256"),
        ({"spec": "256-8-10:tanh"}, "relu networks"),
        ({"sparsity": 1.5}, "below 1"),
        ({"init": "zeros"}, "torch, he_normal"),
        ({"optimizer": "lbfgs"}, "adam, sgd"),
        ({"num_test_pairs": 0}, r"zoo\.num_test_pairs=0"),
        ({"standardize": "entry"}, "none, layer"),
    ],
)
def test_what_is_refused(make_zoo, overrides, message):
    with pytest.raises(ValueError, match=message):
        make_zoo(**overrides)


def test_a_diverged_training_is_told(make_zoo):
    with pytest.raises(ValueError, match=r"diverged.*Lower zoo\.lr"):
        make_zoo(lr=1e30).prepare_data()
