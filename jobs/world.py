r"""`ovseg-ray world` as a job of a cluster.

    ray job submit --working-dir . -- \
        python jobs/world.py /mnt/data/world --scenes 100000 --seed 0

The arguments are those of the command; the cluster whose job this is does the work. Paths must be on storage that
every node sees.
"""

from __future__ import annotations

import sys

from ovseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["world", *sys.argv[1:]]))
