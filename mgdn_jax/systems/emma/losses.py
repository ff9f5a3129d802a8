"""EMMA's one loss: how far a picture is from another, in values and in gradients."""

from mgdn_jax.losses import Image, PerExample, gradient_l1, l1


def likeness(x: Image, y: Image) -> PerExample:
    """``mean |x - y| + mean |S x - S y|``, S the Sobel responses of `losses.gradient_l1`.

    Both pictures have a gradient; where they are equal it is 0.
    """
    return l1(x, y) + gradient_l1(x, y)
