"""CLIP as a method: open_clip's model, tokenizer and loss behind the common contract."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovseg_ray.config import Config, TrainingConfig
from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch, Encoding, Method, ParameterGroup, Segmentation, Transform
from ovseg_ray.methods.clip.config import ClipConfig
from ovseg_ray.methods.clip.loss import contrastive_loss
from ovseg_ray.methods.clip.retrieval import recall
from ovseg_ray.methods.clip.tower import PooledTower
from ovseg_ray.methods.clip.transform import WORD_BUCKETS, ClipTransform, normalised
from ovseg_ray.vocabulary import TextEncoder
from ovseg_ray.vocabulary.open_clip_encoder import OpenClipTextEncoder

MAX_LOG_SCALE = math.log(100)  # Radford et al. 2021, section 2.5: larger scales make training unstable


class Clip(Method):
    """Images and captions in one space. It names whole images; a finished run serves LSeg as its text encoder.

    A small tower learns looks long before shapes, since looks alone tell most captions apart. Telling from the image
    which words its captions hold (Joulin et al., ECCV 2016) is the shorter way to the same features, and `word_loss`
    adds it to the contrastive loss.

    With more than one worker the gradient is exactly that of the global batch; batch norms are the training loop's to
    share (`training.batch_norm_images`).
    """

    name = "clip"
    config_class = ClipConfig
    segments = False
    config: ClipConfig

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text_architecture
        self.towers = open_clip.CLIP(
            embed_dim=config.embed_dim,
            vision_cfg=config.vision.open_clip(config.image_size),
            text_cfg=text["text_cfg"],
            quick_gelu=text["quick_gelu"],
            init_logit_scale=-math.log(config.temperature),
        )
        if config.vision.channels is not None:
            self.towers.visual = PooledTower(config.vision.channels, config.embed_dim)
        self.words = nn.Linear(self.towers.visual.pooled_width, WORD_BUCKETS) if config.word_loss else None

    # ---- training
    @classmethod
    def check_training(cls, training: TrainingConfig) -> None:
        if training.accumulate > 1:
            raise UserError(
                f"training.accumulate = {training.accumulate}: the pairs of a micro-batch would not meet those of the "
                "others; set it to 1 and lower training.batch_size, or add workers"
            )

    @classmethod
    def transform(cls, config: Config, *, training: bool = True) -> Transform:
        assert isinstance(config, ClipConfig)
        return ClipTransform(config)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        # torch's fused attention takes ten times as long in half precision on a CPU as the plain one, backwards
        plain = batch["tokens"].device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            text = self.towers.encode_text(batch["tokens"], normalize=True)
        scale = self.towers.logit_scale.exp()
        if self.words is None:
            image = self.towers.encode_image(batch["image"], normalize=True)
            return {"contrastive": contrastive_loss(image, text, scale)}
        pooled = self.towers.visual.pool(batch["image"])
        image = F.normalize(self.towers.visual.projection(pooled), dim=-1)
        found = F.binary_cross_entropy_with_logits(self.words(pooled).float(), batch["words"].float(), reduction="sum")
        return {
            "contrastive": contrastive_loss(image, text, scale),
            "words": self.config.word_loss * found / len(pooled),
        }

    def validation_metrics(self, batches: Iterable[Batch]) -> dict[str, float]:
        """ "loss", which scores, and the recall of pairs over all batches together."""
        losses, images, texts, tokens = [], [], [], []
        for batch in batches:
            losses.append(sum(float(term) for term in self.losses(batch).values()))
            images.append(self.towers.encode_image(batch["image"], normalize=True).float().cpu())
            texts.append(self.towers.encode_text(batch["tokens"], normalize=True).float().cpu())
            tokens.append(batch["tokens"].cpu())
        loss = math.fsum(losses) / len(losses)
        return {"loss": loss, "score": -loss, **recall(torch.cat(images), torch.cat(texts), torch.cat(tokens))}

    @torch.no_grad()
    def after_step(self) -> None:
        self.towers.logit_scale.clamp_(0, MAX_LOG_SCALE)

    def parameter_groups(self) -> list[ParameterGroup]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # gains, biases and the logit scale are not decayed (section 2.5)
        return [
            ParameterGroup([parameter for parameter in trained if parameter.ndim >= 2]),
            ParameterGroup([parameter for parameter in trained if parameter.ndim < 2], decay=False),
        ]

    # ---- inference
    @property
    def text_encoder(self) -> TextEncoder:
        """A copy of the text tower as it is now."""
        return OpenClipTextEncoder.from_model(self.towers, self.config.text_architecture)

    def preprocess(self, image: np.ndarray) -> Tensor:
        return normalised(image, self.config)

    def encode(self, images: Tensor) -> Encoding:
        """ "image": (B, D) unit vectors."""
        embedding = self.towers.encode_image(images, normalize=True)
        return Encoding({"image": embedding}, (images.shape[2], images.shape[3]))

    def scores(self, encoding: Encoding, text: Tensor) -> Tensor:
        """(B, N, 1, 1): cosine over the learned temperature, one score for the whole image."""
        image = encoding.tensors["image"].float()
        return (self.towers.logit_scale.exp() * image @ text.to(image).T)[:, :, None, None]

    def segment(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Segmentation:
        raise UserError(
            "method clip: names whole images, finds no regions; train lseg with --set model.text=run:PATH of this run"
        )
