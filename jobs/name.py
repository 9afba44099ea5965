r"""`ovseg-ray name` as a job of a cluster.

    ray job submit --working-dir . -- \
        python jobs/name.py /mnt/runs/stego /mnt/runs/stego-named --clip run:/mnt/runs/clip --data /mnt/data/photos

The arguments are those of the command; it works on the node where the job runs. Paths must be on storage that this node
sees.
"""

from __future__ import annotations

import sys

from ovseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["name", *sys.argv[1:]]))
