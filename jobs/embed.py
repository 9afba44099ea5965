r"""`ovseg-ray embed` as a job of a cluster.

    ray job submit --working-dir . -- \
        python jobs/embed.py /mnt/photos /mnt/features --encoder mobilenet_v2 --weights /mnt/mobilenet.safetensors

The arguments are those of the command; the cluster whose job this is does the work. Paths must be on storage that
every node sees.
"""

from __future__ import annotations

import sys

from ovseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
