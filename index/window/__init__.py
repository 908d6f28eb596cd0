"""Nearest neighbours with a label in a window: `WindowIndex`, and the methods that it is compared with."""

from nearhash.index.window.index import WindowIndex

__all__ = ["WindowIndex"]
