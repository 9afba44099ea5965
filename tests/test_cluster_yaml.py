from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[1] / "cluster.yaml"


def local() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def aws() -> dict[str, Any]:
    """What the comment at the end of the file tells users to put in."""
    comment = FILE.read_text().partition("\n# provider:")[2]
    lines = ["# provider:" + comment.splitlines()[0], *comment.splitlines()[1:]]
    instead = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))
    replaced = ("provider", "auth", "min_workers", "max_workers")
    return {key: value for key, value in local().items() if key not in replaced} | instead


@pytest.mark.parametrize("config", [local(), aws()], ids=["local", "aws"])
def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_aws_alternative_has_gpu_and_cpu_nodes() -> None:
    kinds = prepare_config(aws())["available_node_types"]
    assert {kind: bool(spec["resources"].get("GPU")) for kind, spec in kinds.items()} == {
        "head": False,
        "gpu": True,
        "cpu": False,
    }


def test_the_validator_would_catch_a_typo() -> None:
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(local() | {"idle_timeout_minute": 5}))
