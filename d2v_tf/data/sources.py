"""Where examples come from: `SOURCE` strings such as `folder:PATH`."""

import difflib

from d2v_tf.data.reading import DataError


def open_source(spec, schemes, **options):
    """Opens the source that a `SOURCE` string, `scheme:rest`, names.

    Args:
        spec: str, such as `builtin:test` or `folder:PATH`.
        schemes: dict, scheme -> function of the rest; a modality's table, such as
            `VISION_SOURCES`.
        options: passed on to that function.

    Raises:
        DataError: for a source that does not exist, is empty or cannot be read.
    """
    scheme, _, rest = spec.partition(":")
    if scheme not in schemes:
        near = difflib.get_close_matches(scheme, schemes, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise DataError(
            f"data: {spec!r} is not a source; it must start with one of {', '.join(schemes)}.{hint}"
        )
    return schemes[scheme](rest, **options)
