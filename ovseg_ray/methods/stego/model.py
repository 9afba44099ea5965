"""STEGO as a method: a head on frozen features, two probes, and clusters that can be given names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ray.config import Config, TrainingConfig
from ovseg_ray.data.squares import resize_shorter
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.store import is_store
from ovseg_ray.methods.base import Batch, Encoding, Method, ParameterGroup, Segmentation, Transform
from ovseg_ray.methods.gather import gather_counts, gather_rows, spread
from ovseg_ray.methods.stego.config import StegoConfig
from ovseg_ray.methods.stego.correspondence import Draws, Pool, correspondence
from ovseg_ray.methods.stego.crf import image_of
from ovseg_ray.methods.stego.head import ChannelMasks, Head
from ovseg_ray.methods.stego.labels import label_weights, segment_shares, upsampled
from ovseg_ray.methods.stego.negatives import draw_negatives
from ovseg_ray.methods.stego.probes import TEST_ALPHA, ClusterProbe, linear_probe_loss
from ovseg_ray.methods.stego.selection import agreement, matched_miou, pair_counts
from ovseg_ray.methods.stego.transform import StegoTransform
from ovseg_ray.networks.frozen import FrozenBackbone, build_backbone
from ovseg_ray.vocabulary import TextEncoder

NAMING_ALPHA = 20.0  # shares of clusters when they vote for labels: near to the hard assignment of training


class Stego(Method):
    """Codes whose cosine follows that of frozen features; clusters of them stand for classes.

    Trained on a feature store: the backbone never runs in training. It takes part in the saved model, which works on
    images. Until its clusters are named (`name_clusters`) the model tells clusters apart but answers no labels.

    Negatives come from the micro-batch of all workers together, and centring keeps its level: how many workers share it
    changes nothing. What is random about an image (points, neighbour, dropout) follows from the image and the epoch.

    Args:
        config: what it is.
        backbone: another than that of `config.encoder`, such as a `DinoBackbone` of other sizes. A saved model is built
            from its configuration, so it must then be one of those.
    """

    name = "stego"
    config_class = StegoConfig
    segments = False
    way_to_segment = "give its clusters names first: 'ovseg-ray name RUN OUT --clip run:CLIP --data DATA'"
    config: StegoConfig

    @classmethod
    def from_data(cls, model: Mapping[str, Any], paths: Sequence[str]) -> Mapping[str, Any]:
        """A feature store that is trained on is the one that features come from."""
        if model.get("features") is None and len(paths) == 1 and is_store(Path(paths[0])):
            return {**model, "features": paths[0]}
        return model

    def __init__(self, config: StegoConfig, backbone: FrozenBackbone | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone or build_backbone(config.encoder)
        self.head = Head(self.backbone.channels, config.width, config.projection)
        self.cluster_probe = ClusterProbe(self.head.width, config.clusters + config.extra_clusters)
        self.linear_probe = nn.Conv2d(self.head.width, config.classes, 1) if config.classes else None
        self.cluster_names: Tensor | None
        self.register_buffer("cluster_names", None)
        if config.name_width is not None:
            self._make_names(config.name_width)

    # ---- training
    @classmethod
    def check_training(cls, training: TrainingConfig) -> None:
        if training.batch_size // training.accumulate < 2:
            raise UserError(
                f"training.batch_size = {training.batch_size}: a micro-batch needs two images; raise it, "
                "or lower training.accumulate"
            )

    @classmethod
    def transform(cls, config: Config, *, training: bool = True) -> Transform:
        assert isinstance(config, StegoConfig)
        return StegoTransform(config)

    def initialise(self) -> None:
        if self.config.encoder.weights is not None:
            self.backbone.load_pretrained(self.config.encoder.weights)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """All that is random comes with the batch."""
        features, near = batch["features"], batch["neighbour"]
        size, first, seed = len(features), 0, int(batch["draw"][0])
        counts = [size]
        if spread():
            told = gather_counts(torch.tensor([size, seed], device=features.device))
            counts, seed = told[:, 0].tolist(), int(told[0, 1])
            first = sum(counts[: dist.get_rank()])
        if sum(counts) < 2:
            raise UserError("training.batch_size: random pairs need two images; raise it")
        drop = self.config.dropout and self.training
        masks = [ChannelMasks.of(batch[name]) if drop else None for name in ("kept", "neighbour_kept")]
        negatives = draw_negatives(
            self.config.correspondence.negatives, sum(counts), seed=seed, reference=self.config.reference
        )[:, first : first + size]
        draws = Draws(batch["anchor_points"], batch["other_points"], negatives.to(features.device))
        return self.step_losses(features, near, batch["target"], draws, (masks[0], masks[1]), counts)

    def step_losses(
        self,
        features: Tensor,
        neighbours: Tensor,
        target: Tensor,
        draws: Draws,
        masks: tuple[ChannelMasks | None, ChannelMasks | None] = (None, None),
        counts: Sequence[int] = (),
    ) -> dict[str, Tensor]:
        """All weighted terms of one step, a function of its arguments alone.

        Args:
            features: (B, C, h, w) of the images, before dropout.
            neighbours: (B, C, h, w) of one neighbour of each.
            target: (B, H, W) int64 labels; outside 0..K-1 ignored.
            draws: points and negatives.
            masks: channel dropout of both passes.
            counts: images of every worker, whose batch the negatives index; default: this one alone.

        Returns:
            "self", "neighbours" (where there is a table or a weight), "random", "cluster", "linear" (with labels).
        """
        codes = self.head(features, masks[0]), self.head(neighbours, masks[1])
        with torch.autocast(features.device.type, enabled=False):
            seen = [x if m is None else x * m.features for x, m in zip((features, neighbours), masks, strict=True)]
            config = self.config.correspondence
            seen, codes = [x.float() for x in seen], (codes[0].float(), codes[1].float())
            pool = _pool(seen[0], codes[0], counts) if len(counts) > 1 else None
            found = correspondence((seen[0], seen[1]), codes, draws, config, pool)
            losses = {name: config.weight * term for name, term in found.weighted(config).items()}
            if self.config.neighbours is None and self.config.features is not None:
                losses["neighbours"] = losses["neighbours"] * 0.0
            code = codes[0].detach()
            losses["cluster"] = self.cluster_probe(code).loss
            if self.linear_probe is not None:
                logits = self.linear_probe(code)
                losses["linear"] = linear_probe_loss(logits, target, reference=self.config.reference)
        return losses

    def loss_weights(self, batch: Batch) -> dict[str, Tensor]:
        if self.linear_probe is None:
            return {}
        target, size = batch["target"], len(batch["features"])
        images = torch.tensor(float(size), device=target.device)
        labelled = ((target >= 0) & (target < self.config.classes)).sum().float()
        return {**dict.fromkeys(("self", "neighbours", "random", "cluster"), images), "linear": labelled}

    def validation_metrics(self, batches: Iterable[Batch]) -> dict[str, float]:
        """ "agreement" and, where there are labels, "matched_miou"; `selection` says which of them scores."""
        count, classes = len(self.cluster_probe.clusters), max(self.config.classes, 1)
        pairs = torch.zeros(count, count, dtype=torch.int64)
        cells = torch.zeros(count, classes, dtype=torch.int64)
        for batch in batches:
            maps = batch["features"], self._other(batch)
            first, second = (self.cluster_probe.cosines(self.head(x)) for x in maps)
            pairs += pair_counts(maps, (first.argmax(1), second.argmax(1)), count).cpu()
            if self.config.classes:
                target = batch["target"]
                found = F.interpolate(first, target.shape[1:], mode="bilinear", align_corners=False).argmax(1)
                known = (target >= 0) & (target < classes)
                cells += (
                    torch.bincount(found[known] * classes + target[known], minlength=cells.numel()).view_as(cells).cpu()
                )
        metrics = {"agreement": agreement(pairs)}
        if self.config.classes:
            metrics["matched_miou"] = matched_miou(cells.numpy())
        elif self.config.selection == "labels":
            raise UserError("model.selection = labels: the store has no masks; use agreement")
        return {**metrics, "score": metrics["agreement" if self.config.selection == "agreement" else "matched_miou"]}

    def _other(self, batch: Batch) -> Tensor:
        """What agreement compares images with; without a table the next image, since itself always agrees."""
        features = batch["features"]
        return batch["neighbour"] if self.config.neighbours is not None else features.roll(1, 0)

    def parameter_groups(self) -> list[ParameterGroup]:
        probes = [*self.cluster_probe.parameters()]
        if self.linear_probe is not None:
            probes += self.linear_probe.parameters()
        groups = [ParameterGroup(probes, lr_scale=self.config.probe_lr_scale)]
        head = list(self.head.parameters())
        return [ParameterGroup(head), *groups] if head else groups

    # ---- codes and clusters
    def preprocess(self, image: np.ndarray) -> Tensor:
        if self.config.inference_size is not None:
            image = resize_shorter(image, self.config.inference_size, self.config.squares.resampling)
        return self._normalised(image)

    def _normalised(self, image: np.ndarray) -> Tensor:
        mean, std = (np.asarray(v, np.float32) for v in (self.backbone.mean, self.backbone.std))
        return (
            torch.from_numpy(((image / np.float32(255) - mean) / std).astype(np.float32)).permute(2, 0, 1).contiguous()
        )

    def crf_picture(self, picture: np.ndarray) -> np.ndarray:
        """The (H, W, 3) uint8 picture that a CRF looks at: `picture` itself, or with `reference` what the original
        makes of the network's input, some values 1 lower."""
        if not self.config.reference:
            return picture
        mean, std = torch.tensor(self.backbone.mean), torch.tensor(self.backbone.std)
        return image_of(self._normalised(picture), mean, std, reference=True)

    def encode(self, images: Tensor) -> Encoding:
        """ "codes": (B, D, h, w), averaged with those of the mirrored images where `flip` says so."""
        size = (images.shape[2], images.shape[3])
        right, bottom = (-length % self.backbone.multiple for length in (size[1], size[0]))
        if right or bottom:
            images = F.pad(images, (0, right, 0, bottom), mode="replicate")
        codes = self.head(self.backbone(images))
        if self.config.flip:
            codes = (codes + self.head(self.backbone(images.flip(3))).flip(3)) / 2
        return Encoding({"codes": codes.float()}, size)

    def cluster_scores(self, encoding: Encoding, size: tuple[int, int]) -> Tensor:
        """(B, K, *size) log probabilities of clusters; codes are upsampled first."""
        return self.cluster_probe.log_probabilities(self._upsampled_codes(encoding, size), TEST_ALPHA)

    def linear_scores(self, encoding: Encoding, size: tuple[int, int]) -> Tensor:
        """(B, classes, *size) log probabilities of the linear probe.

        Raises:
            UserError: a model without one.
        """
        if self.linear_probe is None:
            raise UserError("model.classes = 0: this model was trained without labels and has no linear probe")
        return self.linear_probe(self._upsampled_codes(encoding, size)).log_softmax(1)

    def _upsampled_codes(self, encoding: Encoding, size: tuple[int, int]) -> Tensor:
        codes = encoding.tensors["codes"]
        return upsampled(codes, encoding.size, self._padded(codes), size)

    def _padded(self, codes: Tensor) -> tuple[int, int]:
        return codes.shape[2] * self.backbone.stride, codes.shape[3] * self.backbone.stride

    def take_clusters(self, centroids: Tensor) -> None:
        """Take (K, D) centroids, of any number, in place of those of training; clusters must have no names yet."""
        assert self.cluster_names is None, "names belong to the clusters that they were given to"
        known = self.cluster_probe.clusters
        self.cluster_probe.clusters = nn.Parameter(centroids.to(known))
        extra = max(len(centroids) - self.config.clusters, 0)
        counts = {"clusters": len(centroids) - extra, "extra_clusters": extra}
        self.config = self.config.model_copy(update=counts)

    # ---- labels, once clusters have names
    @property
    def text_encoder(self) -> TextEncoder | None:
        return self._text[0] if self._text else None

    _text: tuple[TextEncoder, ...] = ()

    def use_text_encoder(self, encoder: TextEncoder) -> None:
        if self.cluster_names is None:
            self._make_names(encoder.dim)
            self.config = self.config.model_copy(update={"name_width": encoder.dim})
        elif self.cluster_names.shape[1] != encoder.dim:
            raise UserError(
                f"text encoder: vectors of {encoder.dim} numbers, the clusters have {self.cluster_names.shape[1]}; "
                "give the text encoder that they were named with"
            )
        self._text = (encoder,)

    def name_clusters(self, vectors: Tensor) -> None:
        """Take (K, D) vectors of clusters in the text encoder's space, such as the mean image embedding of regions."""
        assert self.cluster_names is not None, "use_text_encoder comes first"
        self.cluster_names.copy_(F.normalize(vectors.float(), dim=1))

    def scores(self, encoding: Encoding, text: Tensor) -> Tensor:
        return torch.einsum("bkhw,nk->bnhw", self._shares(encoding), self._label_weights(text))

    @torch.no_grad()
    def segment(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Segmentation:
        with torch.autocast(text.device.type, enabled=False):
            codes = encoding.tensors["codes"]
            shares = upsampled(self._shares(encoding), encoding.size, self._padded(codes), size)
            return segment_shares(shares, self._label_weights(text))

    @property
    def pads_to(self) -> int:
        return self.backbone.multiple

    @torch.no_grad()
    def dense_scores(
        self, encoding: Encoding, text: Tensor, size: tuple[int, int], rows: tuple[int, int] | None = None
    ) -> Tensor:
        with torch.autocast(text.device.type, enabled=False):
            shares = upsampled(self._shares(encoding), encoding.size, self._padded(encoding.tensors["codes"]), size)
            shares = shares if rows is None else shares[:, :, rows[0] : rows[1]]
            return torch.einsum("bkhw,nk->bnhw", shares, self._label_weights(text))

    def _shares(self, encoding: Encoding) -> Tensor:
        """(B, K, h, w) of each cluster."""
        return (NAMING_ALPHA * self.cluster_probe.cosines(encoding.tensors["codes"].float())).softmax(1)

    def _label_weights(self, text: Tensor) -> Tensor:
        if self.cluster_names is None:
            raise UserError("this stego model tells clusters apart that have no names yet; use its cluster scores")
        return label_weights(self.cluster_names, text, self.config.name_temperature)

    def _make_names(self, width: int) -> None:
        clusters = self.cluster_probe.clusters
        self.cluster_names = torch.zeros(len(clusters), width, device=clusters.device)
        # of the instance: the class itself is trained without labels, this model answers them
        self.segments = True


def _pool(features: Tensor, codes: Tensor, counts: Sequence[int]) -> Pool:
    """The images of all workers."""

    def level(means: Tensor) -> Tensor:
        whole = means * (len(features) / sum(counts))
        dist.all_reduce(whole)
        return whole

    with torch.no_grad():
        everybody = gather_rows(features, counts)
    return Pool(everybody, gather_rows(codes, counts), level)
