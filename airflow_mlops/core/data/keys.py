"""Keys: whether one of them names two rows, in little memory."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt


def has_repeats(keys: pa.ChunkedArray) -> bool:
    """
    Say whether a value comes more than once; a null counts as a value.

    Whole numbers are sorted: a table of hashes costs 200 bytes for each.

    >>> has_repeats(pa.chunked_array([[1, 2], [3, 1]]))
    True
    """
    if not pt.is_integer(keys.type) or keys.null_count:
        return bool(pc.count_distinct(keys, mode="all").as_py() < len(keys))
    if not len(keys):
        return False
    numbers = np.concatenate([np.from_dlpack(chunk) for chunk in keys.chunks])
    numbers.sort()
    return bool((numbers[1:] == numbers[:-1]).any())
