"""Residual networks of torchvision (He et al. 2016) as image encoders; the paper's zero-shot tables use ResNet-101."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torchvision.models import ResNet, ResNet101_Weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from ovseg_ray.errors import UserError
from ovseg_ray.networks.batch_norm import fold_batch_norms, freeze_batch_norms
from ovseg_ray.networks.config import BatchNormMode, ResNetConfig, pretrained_tag
from ovseg_ray.networks.image_encoder import ImageEncoder, read_weights, take_strictly
from ovseg_ray.networks.published import torchvision_state

WIDTHS = (64, 128, 256, 512)  # of the stages, before a block's expansion


class ResNetEncoder(ImageEncoder):
    """The stem and four stages of `torchvision.models.ResNet`, without its classifier."""

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, config: ResNetConfig, batch_norm: BatchNormMode = "train") -> None:
        """
        Args:
            config: kind and number of blocks.
            batch_norm: "train" updates the statistics; "freeze" keeps those of the weights, also in train mode;
                "fold" computes the same with the norms merged into the convolutions.
        """
        super().__init__()
        self._config, self._batch_norm = config, batch_norm
        self.resnet = _features(config)
        expansion = (BasicBlock if config.block == "basic" else Bottleneck).expansion
        self.channels = tuple(width * expansion for width in WIDTHS)
        if batch_norm == "fold":
            fold_batch_norms(self.resnet)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Outputs of the four stages, at strides 4, 8, 16 and 32."""
        net = self.resnet
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        maps = []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def train(self, mode: bool = True) -> ResNetEncoder:
        """As `nn.Module.train`; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self._batch_norm == "freeze":
            freeze_batch_norms(self.resnet)
        return self

    def load_pretrained(self, weights: str | Path) -> None:
        """Take weights in torchvision's layout; those of the classifier are left.

        Args:
            weights: a safetensors file, or "torchvision:TAG" of ResNet-101, fetched on first use.

        Raises:
            UserError: no such file or tag, or weights of another network.
        """
        tag = pretrained_tag(str(weights))
        if tag is not None and self._config != ResNetConfig():
            raise UserError(f"model.encoder.weights = {weights}: are of ResNet-101; leave model.encoder.resnet out")
        state = read_weights(weights) if tag is None else torchvision_state(ResNet101_Weights, tag[1])
        features = _features(self._config)
        take_strictly(features, {key: value for key, value in state.items() if not key.startswith("fc.")}, weights)
        if self._batch_norm == "fold":
            fold_batch_norms(features)
        self.resnet.load_state_dict(features.state_dict())


def _features(config: ResNetConfig) -> ResNet:
    net = ResNet(BasicBlock if config.block == "basic" else Bottleneck, list(config.blocks))
    del net.avgpool, net.fc
    return net
