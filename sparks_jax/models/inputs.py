"""What a network is given: a batch of images with its channels last."""

from typing import Any


def check_images(images: Any, channels: int, who: str) -> None:
    """Refuse what is not a batch of images, which a convolution or a sum might else take without a word.

    Args:
        images: What should be `(b h w c)`.
        channels: $c$.
        who: The network, for the message.

    Raises:
        ValueError: For another number of axes or channels, and says how to mend it.

    Example:
        >>> import numpy as np
        >>> check_images(np.ones((8, 8, 3)), 3, "resnet")
        Traceback (most recent call last):
        ValueError: resnet: images have shape (8, 8, 3), expected a batch (b, h, w, 3); images[None] is a batch of one
    """
    shape = tuple(images.shape)
    if len(shape) == 4 and shape[-1] == channels:
        return
    advice = ""
    if len(shape) == 3 and shape[-1] == channels:
        advice = "; images[None] is a batch of one"
    elif len(shape) == 4 and shape[1] == channels:
        advice = "; channels are last here: images.transpose(0, 2, 3, 1)"
    elif shape[-1:] == (1,) and channels == 3:
        advice = "; images.repeat(3, -1) makes grey ones RGB"
    raise ValueError(f"{who}: images have shape {shape}, expected a batch (b, h, w, {channels}){advice}")
