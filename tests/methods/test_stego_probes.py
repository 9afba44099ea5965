from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from stego_golden import Golden, close

from ovseg_ray.methods.stego.probes import ClusterProbe, linear_probe_loss

GOLDEN = Golden("cluster_lookup")


def probe() -> ClusterProbe:
    made = ClusterProbe(6, 7)
    made.load_state_dict({"clusters": GOLDEN["clusters"]})
    return made


@pytest.mark.parametrize(("name", "alpha"), [("none", None), ("a3", 3.0), ("a2", 2.0)])
def test_cluster_loss_and_gradients(name: str, alpha: float | None) -> None:
    x, clusters = GOLDEN["x"].requires_grad_(), probe()
    found = clusters(x, alpha)
    close(found.loss, GOLDEN[f"{name}_loss"])
    close(found.weights, GOLDEN[f"{name}_probs"])
    found.loss.backward()
    close(clusters.clusters.grad, GOLDEN[f"{name}_grad_clusters"], 1e-8)  # type: ignore[arg-type]
    close(x.grad, GOLDEN[f"{name}_grad_x"], 1e-8)  # type: ignore[arg-type]


def test_scores() -> None:
    close(probe().cosines(GOLDEN["x"]), GOLDEN["inner_products"])
    close(probe().log_probabilities(GOLDEN["x"]), GOLDEN["a2_log_probs"])
    close(probe().log_probabilities(GOLDEN["x"], 3.0), GOLDEN["a3_log_probs"])


def test_twenty_steps_of_adam() -> None:
    clusters = probe()
    optimizer = torch.optim.Adam(clusters.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = clusters(GOLDEN["x"]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    close(torch.stack(losses).double(), GOLDEN["adam20_losses"])
    close(clusters.clusters, GOLDEN["adam20_clusters"])


def test_linear_loss_is_the_mean_over_labelled_pixels() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 3, 5), torch.randint(-1, 6, (2, 12, 20))
    upsampled = F.interpolate(logits, (12, 20), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    labelled = (target >= 0) & (target < 4)  # 4 and 5 are no classes
    expected = F.cross_entropy(upsampled[labelled], target[labelled])
    close(linear_probe_loss(logits, target), expected)
    close(linear_probe_loss(logits, target, reference=True), expected)


def test_linear_loss_of_nothing() -> None:
    logits, nothing = torch.randn(2, 4, 3, 5, requires_grad=True), torch.full((2, 6, 10), -1)
    loss = linear_probe_loss(logits, nothing)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()  # type: ignore[union-attr]
    assert linear_probe_loss(logits, nothing, reference=True).isnan()
