"""Published sets of prompt templates, by name."""

from __future__ import annotations

from collections.abc import Callable

from ovseg_ray.errors import UserError, did_you_mean

BARE = ("{}",)  # LSeg's own: the label string alone
# Gu et al. 2022 (ViLD), as used by OVSeg (Liang et al. 2023): some end with a full stop, some do not
VILD14 = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)


def _imagenet80() -> tuple[str, ...]:
    import open_clip  # seconds to import, and nothing else here needs it

    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


_SETS: dict[str, Callable[[], tuple[str, ...]]] = {
    "bare": lambda: BARE,
    "vild14": lambda: VILD14,
    "imagenet80": _imagenet80,
}


def template_set(name: str) -> tuple[str, ...]:
    """The templates of a published set: "bare", "vild14" or "imagenet80" (Radford et al. 2021).

    Raises:
        UserError: no such set.
    """
    if name not in _SETS:
        hint = did_you_mean(name, _SETS, f"sets: {', '.join(_SETS)}; or give a list of templates")
        raise UserError(f"templates '{name}': no such set; {hint}")
    return _SETS[name]()
