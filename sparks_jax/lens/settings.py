"""What a build is asked to do, and its defaults."""

from typing import Any, NamedTuple

STRIDE = 0.8  # between crops, over their side: the paper's
THUMBNAIL, EXHIBIT, TILE = 112, 320, 40  # sides in pixels: of a crop, of an image shown large, of one in a sheet
TOP = 5  # predictions kept of each image, and classes that a concept is compared with
SIMILAR = 5  # nearest concepts of other classes
QUALITY = 86  # of JPEG
MAP = 28  # side of the finer maps, at most
BLACK_BOXES = ("sobol", "rise", "occlusion")


class Settings(NamedTuple):
    """What a build is asked to do; the defaults suit a class of hundreds of images on an accelerator.

    Attributes:
        rank: Concepts of a class.
        view: `"crops"`, resized to whole images as in the paper, or `"positions"` of the activations.
        crop: Side of a crop over that of the image (the paper: 64 to 128 of 224 pixels).
        only: Only these classes, by number or name; none: all that have images.
        max_classes: Those with most images, so many at most; None for all.
        most: Images of a class, at most.
        least: Images that a class needs.
        rivals: Classes whose logits are kept, the class itself among them.
        steps: Of the factorization.
        pictures: Concepts of each class that are made visible by MACO.
        picture_steps: Steps of each.
        picture_crops: Crops at each step.
        picture_size: Side of what the network is shown of them; None for that of its images.
        parts: Concepts of each class that are taken apart at an earlier layer.
        part_rank: Sub-concepts of each.
        part_images: That they are taken apart on: those with most of the concept.
        exhibits: Images of each class that are shown large, with maps.
        black_box: Of these, also maps by `"sobol"`, `"rise"` or `"occlusion"`; None for none: each costs hundreds of
            evaluations.
        crops: Crops shown of each concept.
        plane_steps: Of t-SNE.
        at_once: Classes that are factorized by one call on each device.
        chunk: Images or crops evaluated at once on each device; None: what suits it.
        seed: Of all that is random.
    """

    rank: int = 10
    view: str = "crops"
    crop: float = 64 / 224
    only: tuple[str, ...] = ()
    max_classes: int | None = None
    most: int = 300
    least: int = 10
    rivals: int = 6
    steps: int = 100
    pictures: int = 10
    picture_steps: int = 128
    picture_crops: int = 8
    picture_size: int | None = None
    parts: int = 1
    part_rank: int = 3
    part_images: int = 16
    exhibits: int = 4
    black_box: str | None = None
    crops: int = 4
    plane_steps: int = 400
    at_once: int = 4
    chunk: int | None = None
    seed: int = 0


# Few and small, for a CPU: the atlases that a build without arguments makes.
PHOTOGRAPHS: dict[str, Any] = dict(
    rank=5, crop=96 / 224, max_classes=5, most=16, least=8, pictures=2, picture_steps=32, picture_crops=4,
    picture_size=160, exhibits=3, part_images=8,
)  # fmt: skip
GLYPHS: dict[str, Any] = dict(
    rank=6, view="positions", crop=0.3, most=60, pictures=3, picture_steps=48, picture_crops=4
)
SMOKE: dict[str, Any] = dict(
    rank=2, most=8, least=3, rivals=2, steps=5, pictures=1, picture_steps=2, picture_crops=1, parts=1, part_rank=2,
    part_images=4, exhibits=1, crops=1, plane_steps=8, at_once=2, max_classes=2,
)  # fmt: skip


def check(settings: Settings) -> None:
    """Refuse settings out of range.

    Args:
        settings: What was asked.

    Raises:
        ValueError: With the name, what it is, and what is expected.

    Example:
        >>> check(Settings(view="tokens"))
        Traceback (most recent call last):
        ValueError: view is 'tokens', expected crops or positions
    """
    if settings.view not in ("crops", "positions"):
        raise ValueError(f"view is {settings.view!r}, expected crops or positions")
    if settings.black_box not in (None, *BLACK_BOXES):
        raise ValueError(f"black_box is {settings.black_box!r}, expected {', '.join(BLACK_BOXES)} or None")
    if not 0 < settings.crop <= 1:
        raise ValueError(f"crop is {settings.crop}, expected a share of the side, above 0 and at most 1")
    least = dict(rank=1, most=1, least=1, rivals=1, steps=1, pictures=0, picture_steps=1, picture_crops=1, parts=0)
    least |= dict(part_rank=1, part_images=1, exhibits=0, crops=1, plane_steps=1, at_once=1, seed=0)
    for name, low in least.items():
        value = getattr(settings, name)
        if value < low:
            raise ValueError(f"{name} is {value}, expected at least {low}")
