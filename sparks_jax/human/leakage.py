"""Whether participants have seen what they are asked about."""

from typing import Any

import numpy as np

from sparks_jax.human.study import Study


def check_leakage(study: Study, images: Any, *, tolerance: float = 0.03) -> None:
    r"""Refuse a study that asks about an image which looks like one seen before, or like its mirror image.

    Two images look alike where $\sqrt{\mathrm{mean}\,(x - x')^2}$ is below the tolerance.

    Args:
        study: The study.
        images: `(n h w c)` the pool, in [0, 1].
        tolerance: Root mean square difference of pixels.

    Raises:
        ValueError: With the pairs; or if the pool has fewer images than the study uses.

    Example:
        >>> from sparks_jax.human.study import Item, Session
        >>> seen, asked = Item(0, 0, 1), Item(1, 0, 1)
        >>> study = Study("t", ("a", "b"), (), (Session((seen,), (asked,), ()),), 0)
        >>> check_leakage(study, np.array([0.0, 1.0])[:, None, None, None])
        >>> check_leakage(study, np.array([0.5, 0.5])[:, None, None, None])
        Traceback (most recent call last):
        ValueError: participants have seen what they are asked: question 1 looks like image 0, seen before; ...

    Reference:
        Barz and Denzler 2020, Do we train on test data? Purging CIFAR of near-duplicates, arXiv:1902.00423.
    """
    pixels = np.asarray(images)
    used = [(item.image, False) for item in study.practice] + [
        (item.image, asked)
        for session in study.sessions
        for part, asked in ((session.examples, False), (session.questions, True))
        for item in part
    ]
    if pixels.ndim != 4 or max((image for image, _ in used), default=-1) >= len(pixels):
        raise ValueError(f"images has shape {pixels.shape}, expected (n, h, w, c) with every image that the study uses")
    flat = pixels[[image for image, _ in used]].astype(np.float32)
    flat, mirrored = (a.reshape(len(used), -1) for a in (flat, flat[:, :, ::-1]))
    pairs = []
    for j, (image, asked) in enumerate(used):
        if asked and j:
            distance = np.minimum(*(np.sqrt(np.square(flat[:j] - a[j][None]).mean(1)) for a in (flat, mirrored)))
            pairs += [
                f"question {image} looks like image {used[i][0]}, seen before"
                for i in np.flatnonzero(distance < tolerance)
            ]
    if pairs:
        raise ValueError(
            f"participants have seen what they are asked: {'; '.join(pairs)}; design it again, with `groups` for "
            "images that are alike"
        )
