"""The contrastive loss on two workers is the loss of their joint batch."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg_ray.methods.clip import Clip, ClipConfig

# no batch norm: its statistics are each worker's own
CONFIG = ClipConfig.model_validate(
    {
        "embed_dim": 8,
        "image_size": 16,
        "word_loss": 0,
        "vision": {"channels": None, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text": {"context_length": 6, "width": 16, "heads": 2, "layers": 1},
    }
)


class Losses(nn.Module):
    """As the training loop wraps a method."""

    def __init__(self, method: Clip) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.method.losses(batch)["contrastive"]


def start() -> tuple[Losses, dict[str, Tensor]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    losses = Losses(Clip(CONFIG).train())
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.normal(size=(8, 3, 16, 16)), dtype=torch.float32)
    tokens = torch.tensor(rng.integers(1, 49406, (8, 6)))
    tokens[:, -1] = 49407
    return losses, {"image": images, "tokens": tokens}


def work(rank: int, directory: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    losses, batch = start()
    ddp = DistributedDataParallel(losses)
    loss = ddp({key: value[4 * rank : 4 * rank + 4] for key, value in batch.items()})
    loss.backward()
    gradients = {name: p.grad for name, p in losses.named_parameters() if p.grad is not None}
    save_file({**gradients, "loss": loss.detach().clone()}, f"{directory}/{rank}.safetensors")
    del ddp
    gc.collect()  # a DDP module that outlives its group can abort the process at exit
    dist.destroy_process_group()


def test_two_workers_give_the_gradient_of_the_joint_batch(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    losses, batch = start()
    loss = losses(batch)
    loss.backward()
    torch.testing.assert_close((parts[0].pop("loss") + parts[1].pop("loss")) / 2, loss.detach(), rtol=1e-5, atol=1e-6)
    expected = {name: parameter.grad for name, parameter in losses.named_parameters()}
    assert set(parts[0]) == set(expected)
    for name, gradient in expected.items():
        for part in parts:
            torch.testing.assert_close(part[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert float(expected["method.towers.logit_scale"].abs()) > 1e-3
