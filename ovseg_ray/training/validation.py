"""Validation beside training: one Ray task a checkpoint, started by Ray Train."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_ray.config import DataConfig, SourceConfig
from ovseg_ray.data import open_dataset
from ovseg_ray.data.cut import cut
from ovseg_ray.data.dataset import DataSet

AMPLE_BYTES = 6 * 2**30

if TYPE_CHECKING:  # the controller of Ray Train unpickles `Validation`: whatever is heavy waits for the task
    from ray.train import Checkpoint

    from ovseg_ray.methods.base import Batch, Method
    from ovseg_ray.training.session import Session
    from ovseg_ray.vocabulary import Vocabulary


class Validation:
    """Scores checkpoints, writes what it found into the run, and keeps the best models.

    Args:
        session: of the training.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, checkpoint: Checkpoint, *, step: int, epoch: float) -> dict[str, Any]:
        """Called by Ray Train.

        Returns:
            The metrics, which Ray Train files with the checkpoint.
        """
        from ovseg_ray.training.events import Events
        from ovseg_ray.training.metrics import append_metrics

        session, place = self._session, {"step": step, "epoch": epoch}
        try:
            found = self._score(Path(checkpoint.path), step)
        except Exception as error:
            # training goes on without this number; the driver shows the line
            append_metrics(session.run.metrics_file, {**place, "validation_error": str(error) or repr(error)})
            raise
        append_metrics(session.run.metrics_file, {**place, "validation": found})
        events = Events(session.path / "tensorboard", 0)
        events.add({"step": step, **found}, "validation/")
        events.close()
        return found

    def _score(self, checkpoint: Path, step: int) -> dict[str, Any]:
        import torch

        from ovseg_ray.training.checkpoint import load_weights

        torch.set_num_threads(1)
        session = self._session
        method = session.model()
        load_weights(method, checkpoint)
        method.eval().to(spare_device())
        found = validate(method, session)
        keep_best(method, session, step, found["miou"] if method.segments else found.pop("score"))
        return found


def validate(method: Method, session: Session) -> dict[str, Any]:
    """Metrics of a model on the validation images of every data set; over several, their mean.

    Returns:
        mIoU and its companions, all labels of a set competing; or what a method that does not segment measures.

    Raises:
        UserError: an image or mask that cannot be read.
    """
    import torch

    data = session.config.data
    results = []
    for index, source in enumerate(session.validation):
        dataset = validation_dataset(source, data)
        rows = spread(len(dataset), data.validation_images)
        if method.segments:
            results.append(_segmentation_metrics(method, dataset, rows, source, session))
        else:
            with torch.inference_mode():
                results.append(method.validation_metrics(_batches(method, dataset, rows, index, session)))
    return mean_of(results)


def validation_dataset(source: SourceConfig, data: DataConfig) -> DataSet:
    """The images that validate: those cut out of the training split where `validation_share` says so, or a split."""
    if data.validation_share:
        return cut(open_dataset(source.path, source.split), data.validation_share)[1]
    return open_dataset(source.path, data.validation_split)


def _segmentation_metrics(
    method: Method, dataset: DataSet, rows: Sequence[int], source: SourceConfig, session: Session
) -> dict[str, float]:
    from ovseg_ray.evaluation.scoring import score_rows
    from ovseg_ray.evaluation.spaces import label_space, unseen_labels, without_truth
    from ovseg_ray.vocabulary import LabelEmbeddings

    encoder = method.text_encoder
    assert encoder is not None  # a method that segments by labels
    vocabulary = label_vocabulary(method, source, session.config.data)
    space = label_space("labels", dataset, vocabulary, LabelEmbeddings(encoder).embed)
    hidden = (*source.held_out, *(dataset.unseen if session.config.data.held_out == "data set" else ()))
    if hidden and session.config.data.validation_share:
        # cut from the training data: what training may not see is not looked at here either, it only competes
        space, hidden = without_truth(space, dataset, hidden), ()
    matrix = score_rows(method, dataset, rows, [space])["labels"]
    return matrix.metrics(unseen_labels(space, dataset, hidden) if hidden else ())


def label_vocabulary(method: Method, source: SourceConfig, data: DataConfig) -> Vocabulary:
    """The labels that validation on a data set asks for, with the prompts of training."""
    from ovseg_ray.vocabulary import Vocabulary

    named = source.vocabulary
    vocabulary = Vocabulary.from_yaml(named) if named else validation_dataset(source, data).require_masks()
    return vocabulary.with_templates(method.label_sets[0].templates if method.label_sets else vocabulary.templates)


def _batches(method: Method, dataset: DataSet, rows: Sequence[int], number: int, session: Session) -> Iterator[Batch]:
    from ovseg_ray.training.input import to_device
    from ovseg_ray.training.plan import sample_generator

    training = session.config.training
    transform = session.method.transform(method.config, training=False)
    device = next(method.parameters()).device
    size = min(training.batch_size // training.accumulate, len(rows))
    # whole batches only: a contrastive loss over fewer images is another measure
    for start in range(0, len(rows) - size + 1, size):
        part = rows[start : start + size]
        examples = [transform(dataset.decoded(row), number, sample_generator(0, 0, row)) for row in part]
        yield to_device(session.method.collate(examples), device, channels_last=False)


def keep_best(method: Method, session: Session, step: int, score: float) -> None:
    """Export a model that is among the best so far, and remove the one that no longer is."""
    from ovseg_ray.methods.export import describe_model, save_model
    from ovseg_ray.training.checkpoint import checkpoint_name, remove_partial

    keep, best = session.config.training.keep_best, session.run.best
    if not keep or not math.isfinite(score):
        return
    remove_partial(best)
    scores = {p: float(describe_model(p).provenance["score"]) for p in best.glob("step-*") if p.is_dir()}
    path = best / checkpoint_name(step)
    scores[path] = score
    # at a tie the later one, which has seen more
    ranked = sorted(scores, key=lambda p: (scores[p], p.name), reverse=True)
    if path in ranked[:keep]:
        provenance = {**session.provenance, "step": step, "score": score}
        save_model(method, path, vocabularies=session.label_sets, provenance=provenance)
    for path in ranked[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def spare_device() -> str:
    """The GPU with the most free memory where that is ample beside training, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    return f"cuda:{free.index(max(free))}" if max(free) >= AMPLE_BYTES else "cpu"


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` of `total` rows, evenly spread; all of them for 0 or where there are not more."""
    if wanted == 0 or wanted >= total:
        return list(range(total))
    return [i * total // wanted for i in range(wanted)]


def mean_of(results: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over data sets that have it."""
    names = dict.fromkeys(name for result in results for name in result)
    columns = {name: [r[name] for r in results if name in r and not math.isnan(r[name])] for name in names}
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in columns.items()}
