"""Check the arguments of displays when they are plotted."""

from collections.abc import Sequence
from numbers import Real

import numpy as np

from sklearn_pgb._sklearn import _validate_style_kwargs


def numbers(values, name):
    """Convert numbers to an array of floats."""
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
    """Raise unless `value` is a number or None."""
    if value is not None and not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or None, got {_described(value)}.")


def check_text(value, name):
    """Raise unless `value` is a str or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, got {_described(value)}.")


def check_texts(values, name):
    """Raise unless `values` is a sequence of str."""
    is_sequence = isinstance(values, Sequence) or np.ndim(values) == 1
    if not is_sequence or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be a sequence of str, got {_described(values)}.")


def check_keywords(value, name):
    """Raise unless `value` is a dict with str keys or None."""
    is_dict = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if value is not None and not is_dict:
        raise TypeError(
            f"{name} must be a dict of keywords or None, got {_described(value)}."
        )


def styled(defaults, given, name, taken=()):
    """Return the defaults with the given keywords, of which matplotlib has aliases.

    Keywords in `taken` are the data of the display.
    """
    given = given or {}
    for key in taken:
        if key in given:
            raise TypeError(
                f"{name} must not have {key!r}, which the display sets. Use keywords "
                "of the style, such as 'color'."
            )
    return _validate_style_kwargs(defaults, given)


def check_result(value, kind, name, maker):
    """Raise unless `value` is of class `kind`, the result of the function `maker`."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be a {kind.__name__}, got {_described(value)}. Compute it "
            f"with {maker}."
        )


def _described(value):
    """Describe a value in a message: by its repr if short, else by its type."""
    text = repr(value)
    return text if len(text) <= 40 else f"a value of type {type(value).__name__}"
