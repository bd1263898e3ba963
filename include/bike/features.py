"""Features of the bicycle rental model: the calendar and the weather of the hour."""

import numpy as np
import pandas as pd

CALENDAR = ("season", "mnth", "hr", "holiday", "weekday", "workingday")
WEATHER = ("weathersit", "temp", "atemp", "hum", "windspeed")


def build(rows: pd.DataFrame) -> pd.DataFrame:
    """
    Turn rows of the table into features, one row for each.

    The year is left out: a model that knows it cannot speak of a year it has not seen.

    :param rows: the columns of ``CALENDAR`` (whole numbers) and ``WEATHER`` (scaled to 0 to 1).
    """
    angle = 2 * np.pi * rows["hr"].to_numpy(dtype=float) / 24
    hours = pd.DataFrame({"morning": np.sin(angle), "noon": np.cos(angle)}, index=rows.index)
    return pd.concat([rows[[*CALENDAR, *WEATHER]].astype(float), hours], axis=1)
