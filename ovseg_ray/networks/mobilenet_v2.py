"""MobileNetV2 (Sandler et al. 2018) as an image encoder, in torchvision's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor
from torchvision.models import mobilenet_v2

from ovseg_ray.networks.batch_norm import fold_batch_norms, freeze_batch_norms
from ovseg_ray.networks.image_encoder import ImageEncoder, load_strictly

CLASSES = 1001  # of ImageNet networks that began in TensorFlow: 0 is "background"
TAPS = {2: (1, 16), 4: (3, 24), 8: (6, 32), 16: (13, 96), 32: (17, 320)}  # stride: (index in features, channels)


class MobileNetV2Encoder(ImageEncoder):
    """`torchvision.models.mobilenet_v2().features[:18]`, tapped where each stride ends. Input: x / 127.5 - 1."""

    def __init__(
        self, batch_norm: Literal["train", "freeze", "fold"] = "freeze", finest_stride: Literal[2, 4] = 4
    ) -> None:
        """
        Args:
            batch_norm: "train" updates the statistics; "freeze" keeps those of the weights file, also in train
                mode (needed where they were folded into the convolutions: fresh statistics would rescale every
                layer); "fold" computes the same with the norms merged into the convolutions, faster.
            finest_stride: 2 gives the half-resolution map of features[1] as well.
        """
        super().__init__()
        taps = {stride: tap for stride, tap in TAPS.items() if stride >= finest_stride}
        self.strides = tuple(taps)
        self.channels = tuple(channels for _, channels in taps.values())
        self._taps = frozenset(index for index, _ in taps.values())
        self._batch_norm = batch_norm
        self.features = mobilenet_v2().features[:18]
        if batch_norm == "fold":
            fold_batch_norms(self.features)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps at strides 4, 8, 16 and 32 (24, 32, 96, 320 channels), with stride 2 (16) in front where asked for."""
        maps, x = [], images
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._taps:
                maps.append(x)
        return maps

    def train(self, mode: bool = True) -> MobileNetV2Encoder:
        """As `nn.Module.train`; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self._batch_norm == "freeze":
            freeze_batch_norms(self.features)
        return self

    def load_pretrained(self, weights: str | Path) -> None:
        """Take weights from a safetensors file with the keys of `torchvision.models.mobilenet_v2(num_classes=1001)`.

        Raises:
            UserError: no such file, not safetensors, or weights of another network.
        """
        whole = mobilenet_v2(num_classes=CLASSES)
        load_strictly(whole, weights)
        features = whole.features[:18]
        if self._batch_norm == "fold":
            fold_batch_norms(features)
        self.features.load_state_dict(features.state_dict())
