"""The lower bound against torch's distributions; predictions that no mask can reach; what does not fit is told."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from nfbench.models import TicketVAE
from nfbench.tasks import WinningTickets
from nfbench.tasks.tickets import check_memory, free_bytes, prior_draws
from nfbench.weightspace import NetworkSpec, Pruning, ZooBatch, random_features

SPEC = NetworkSpec.parse("6-5-4:relu")
PRUNING = {"sparsity": 0.8, "scope": "global", "biases": False}


def make_task(layer: str = "np", **changes) -> WinningTickets:
    torch.manual_seed(0)
    task = WinningTickets(pruning=PRUNING, **changes)
    task.model = TicketVAE(SPEC, layer=layer, width=8, latent=3, num_layers=3)
    task.configure_model()
    return task.eval()


def make_batch(count: int = 4) -> ZooBatch:
    generator = torch.Generator().manual_seed(1)
    features = random_features(SPEC, count, 1, generator)
    mask = Pruning(**PRUNING).keep_largest(SPEC, torch.rand(count, SPEC.num_params, generator=generator))
    index = torch.arange(count)
    return ZooBatch(features, mask.float(), index, torch.zeros_like(index))


@pytest.mark.parametrize("kl_weight", [1.0, 0.1])
def test_the_loss_is_the_lower_bound(kl_weight):
    task, batch = make_task(kl_weight=kl_weight), make_batch()
    noise = torch.randn(4, SPEC.num_params, 3)
    loss, kl = task.lower_bound(task.model, batch, noise)
    mean, log_variance = task.model.encode(batch.features, batch.target)
    posterior = Normal(mean, (log_variance / 2).exp())
    logits = task.model.decode(batch.features, posterior.mean + posterior.stddev * noise)
    prunable = Pruning(**PRUNING).prunable(SPEC)
    likelihood = Bernoulli(logits=logits).log_prob(batch.target)[:, prunable].sum(1)
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum((1, 2))
    wanted = (kl_weight * divergence - likelihood).mean() / prunable.sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert kl.item() == pytest.approx((divergence.mean() / prunable.sum()).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("latent", "cut"), [("prior", "tensor"), ("prior", "sampled"), ("zero", "largest"), ("zero", "input")]
)
@pytest.mark.parametrize("layer", ["pt", "np", "nft"])
def test_no_mask_reaches_a_prediction(layer, latent, cut, monkeypatch):
    task, batch = make_task(layer, latent=latent, cut=cut), make_batch()
    monkeypatch.setattr(WinningTickets, "log_dict", lambda *_, **__: None)
    masks = [task._measure("test", batch._replace(target=target)) for target in (batch.target, 1 - batch.target)]
    assert torch.equal(*masks)
    assert masks[0][:, Pruning(**PRUNING).prunable(SPEC)].sum(1).tolist() == [10] * 4, "exactly 20 % of 50 weights"
    other = batch._replace(features=batch.features.map(lambda t: t.flip(1)))
    assert not torch.equal(task._measure("test", other), masks[0])
    # The encoder, which sees masks, is no part of the prediction.
    with torch.no_grad():
        for parameter in task.model.encoder.parameters():
            parameter.fill_(float("nan"))
    scores = task.predict_scores(batch.features, batch.index)
    assert torch.equal(task.cut_scores(SPEC, scores, batch.index), masks[0])


def test_sampled_masks_follow_the_probabilities():
    task = make_task(cut="sampled")
    logits = torch.full((4000, SPEC.num_params), -2.0)
    logits[:, : SPEC.num_params // 3] = 0.0  # weights of the first layer
    masks = task.cut_scores(SPEC, logits, torch.arange(4000))[:, Pruning(**PRUNING).prunable(SPEC)]
    assert (masks.sum(1) == 10).all()
    likely, unlikely = masks[:, :18].float().mean(), masks[:, 18:].float().mean()
    assert 3 < likely / unlikely < torch.e**2, "below the odds, since what is drawn is not put back"
    assert not torch.equal(masks[0], masks[1])


def test_draws_are_of_the_pair_alone():
    draws = prior_draws(torch.tensor([3, 5]), (1000, 2), 0)
    assert torch.equal(prior_draws(torch.tensor([5]), (1000, 2), 0)[0], draws[1])
    assert not torch.equal(prior_draws(torch.tensor([5]), (1000, 2), 1)[0], draws[1])
    assert draws.mean().item() == pytest.approx(0, abs=0.1)
    assert draws.std().item() == pytest.approx(1, abs=0.1)
    task, batch = make_task(samples=3), make_batch()
    scores = task.predict_scores(batch.features, batch.index)
    assert torch.allclose(task.predict_scores(batch.features[[2]], batch.index[2:3])[0], scores[2], atol=1e-5)
    assert not torch.allclose(make_task(samples=1).predict_scores(batch.features, batch.index), scores, atol=1e-5)


def test_what_is_refused():
    for changes, message in [({"latent": "mean"}, "prior, zero"), ({"cut": "top"}, "tensor, input, largest, sampled"),
                             ({"samples": 0}, r"task\.samples=0"),
                             ({"kl_weight": -1.0}, r"task\.kl_weight")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            WinningTickets(pruning=PRUNING, **changes)


def test_a_step_that_does_not_fit_is_told():
    check_memory(2**30, 2**31, 4)
    check_memory(2**30, None, 4)
    with pytest.raises(ValueError, match=r"step of 4 networks takes about 3\.0 GiB, and 2\.0 GiB are free"):
        check_memory(3 * 2**30, 2 * 2**30, 4)
    assert free_bytes(torch.device("meta")) is None
    free = free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20
