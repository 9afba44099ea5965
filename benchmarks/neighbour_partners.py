"""What neighbours can teach STEGO that a picture does not show by itself, by the masks of a feature store.

    python benchmarks/neighbour_partners.py FEATURES NEIGHBOURS [--pictures 400]

For places of a picture: how often a place of the same label is in the same picture, in one of its neighbours, in a
random picture ("partner"), and how alike the features of places of the same and of different labels are there (mean
cosine). Told apart for labels that at least --common of the pictures show, and for rarer ones. One JSON line.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.neighbour_table import NeighbourTable
from ovseg_ray.feature_store.store import FeatureStore

NONE = -1


def places(store: FeatureStore, row: int) -> tuple[np.ndarray, np.ndarray]:
    """(h * w, C) features of length 1, and (h * w,) the label of over half of each place, or `NONE`."""
    features, mask = store.features(row), store.mask(row)
    if mask is None:
        raise UserError(f"{store.path}: has no masks; embed a data set with masks")
    channels, height, width = features.shape
    flat = features.reshape(channels, -1).T
    labels = np.full((height, width), NONE)
    rows, columns = (np.linspace(0, mask.shape[0], n + 1).astype(int) for n in (height, width))
    for y in range(height):
        for x in range(width):
            cell = mask[rows[y] : rows[y + 1], columns[x] : columns[x + 1]].ravel()
            values, counts = np.unique(cell, return_counts=True)
            best = counts.argmax()
            # unlabelled pixels hold the largest value, see `FeatureStore.mask`
            if 2 * counts[best] > cell.size and values[best] != np.iinfo(mask.dtype).max:
                labels[y, x] = values[best]
    return flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12), labels.ravel()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features")
    parser.add_argument("neighbours")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--common", type=float, default=0.1, help="share of pictures that show a common label")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    store, rng = FeatureStore.open(given.features), np.random.default_rng(given.seed)
    table = NeighbourTable.open(given.neighbours, store.info.features)
    names = store.image_ids
    picked = rng.choice(len(names), min(given.pictures, len(names)), replace=False).tolist()
    known = {row: places(store, row) for row in picked}
    shown = np.bincount(np.concatenate([np.unique(labels[labels != NONE]) for _, labels in known.values()]))
    common = np.flatnonzero(shown >= given.common * len(picked))
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for row in picked:
        near = table.neighbours(names[row])
        others = {
            "itself": row,
            "a neighbour": store.rows[near[int(rng.integers(len(near)))]],
            "a random picture": int(rng.integers(len(names))),
        }
        features, labels = known[row]
        for where, other in others.items():
            theirs, their_labels = known[other] if other in known else places(store, other)
            cosines = features @ theirs.T
            same = (labels[:, None] == their_labels) & (labels != NONE)[:, None]
            different = (labels[:, None] != their_labels) & (labels != NONE)[:, None] & (their_labels != NONE)
            if other == row:
                np.fill_diagonal(same, False)
            for kind, members in (("common", np.isin(labels, common)), ("rare", ~np.isin(labels, common))):
                members = members & (labels != NONE)
                numbers = found.setdefault(f"{kind} labels, {where}", {"partner": [], "same": [], "different": []})
                numbers["partner"].append(same.any(1)[members])
                numbers["same"].append(cosines[same & members[:, None]])
                numbers["different"].append(cosines[different & members[:, None]])
    result = {
        key: {name: round(float(np.concatenate(parts).mean()), 3) for name, parts in numbers.items()}
        for key, numbers in found.items()
        if sum(map(len, numbers["partner"]))
    }
    print(json.dumps({"pictures": len(picked), "common": len(common), **result}))


if __name__ == "__main__":
    main()
