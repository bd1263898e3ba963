"""Features of the electricity model: what is known when the half hour begins."""

import numpy as np
import pandas as pd

MARKET = ("nswdemand", "vicprice", "vicdemand", "transfer")


def build(rows: pd.DataFrame) -> pd.DataFrame:
    """
    Turn rows of the table into features, one row for each.

    :param rows: columns ``day`` (1 = Monday to 7), ``period`` (half hour of the day, 0 to 1) and
        the four of ``MARKET``, scaled to 0 to 1.
    """
    angle = 2 * np.pi * rows["period"].to_numpy()
    time = pd.DataFrame(
        {
            "day": rows["day"].to_numpy(dtype=float),
            "period": rows["period"].to_numpy(),
            "morning": np.sin(angle),
            "noon": np.cos(angle),
        },
        index=rows.index,
    )
    return pd.concat([time, rows[list(MARKET)].astype(float)], axis=1)
