r"""`ovseg-ray train` as a job of a cluster.

    ray job submit --working-dir . -- \
        python jobs/train.py clip --data /mnt/data/world --out /mnt/runs/clip --workers 4

The arguments are those of the command; the cluster whose job this is does the work. Paths must be on storage that
every node sees.
"""

from __future__ import annotations

import sys

from ovseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
