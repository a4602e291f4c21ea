"""Checks of what a display was made with, when it is drawn."""

from collections.abc import Sequence
from numbers import Real

import numpy as np


def numbers(values, name):
    """Numbers as an array of floats."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise TypeError
        return array.astype(float)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array of numbers, got {_described(values)}."
        ) from error


def check_number(value, name):
    """Refuse what is neither a number nor None."""
    if value is not None and not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or None, got {_described(value)}.")


def check_text(value, name):
    """Refuse what is neither a str nor None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, got {_described(value)}.")


def check_texts(values, name):
    """Refuse what is no sequence of one str per entry."""
    is_sequence = isinstance(values, Sequence) or np.ndim(values) == 1
    if not is_sequence or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be a sequence of str, got {_described(values)}.")


def check_keywords(value, name):
    """Refuse what is neither a dict of keywords nor None."""
    is_dict = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if value is not None and not is_dict:
        raise TypeError(
            f"{name} must be a dict of keywords or None, got {_described(value)}."
        )


def check_result(value, kind, name, maker):
    """Refuse what is no result of the function that makes this kind."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be a {kind.__name__}, got {_described(value)}. Make it by "
            f"{maker}."
        )


def _described(value):
    """A value in a message: short ones as they are, others by their type."""
    text = repr(value)
    return text if len(text) <= 40 else f"a value of type {type(value).__name__}"
