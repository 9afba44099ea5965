r"""`ovseg-ray serve` as a job of a cluster: the endpoint lives as long as the job.

    ray job submit --working-dir . -- \
        python jobs/serve.py /mnt/runs/lseg --host 0.0.0.0

The arguments are those of the command; the cluster whose job this is does the work. Paths must be on storage that
every node sees. An endpoint that outlives its job is deployed with `serve deploy`: see docs/how-to/serving.md.
"""

from __future__ import annotations

import sys

from ovseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
