"""Judgments as a table, exported from a study or made by another tool: its columns, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.types import BenchError

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("prompt_id", "left_model", "right_model", "choice")
#: What the columns that a table may lack hold then.
OPTIONAL = {
    "criterion": "preference",
    "round": "0",
    "kind": "main",
    "item": "",  # which images, where a prompt has several of a model
    "annotator": "",
    "better": "",  # gold and qualification: the side that is known to be better
    "stands": "true",
    "surplus": "false",
    "ms_total": "",
    "created_at": "",
}
CHOICES = ("left", "right", "tie", "skip")
KINDS = ("main", "gold", "repeat", "qualification")
_KNOWN_ANSWER = ("gold", "qualification")
#: Of a main judgment; its repeats have them too.
PAIR = ["criterion", "round", "prompt", "item", "first", "second"]


def read(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file of judgments as it is. Raises BenchError when it cannot be read."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        # A model may be called NA, and a prompt 007.
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BenchError(f"there is no file {path}") from error
    except (OSError, ValueError, ImportError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        problem = " ".join(str(error).split())
        raise BenchError(f"{path} is no table of judgments in CSV (UTF-8, commas) or .parquet: {problem}") from error


def clean(judgments: pd.DataFrame, lead: str | None = None) -> pd.DataFrame:
    """The judgments that stand, checked, in the order they were made.

    Columns: ``PAIR``, kind, annotator ("" where unknown), ``vote`` (1 for the model ``first``, -1 for ``second``, 0 a
    tie, NaN skipped), ``first_left``, ``right`` (whether a known answer was given; NaN where there is none),
    ``surplus``, ``seconds`` (NaN where unknown) and ``cluster``, the number of the prompt. Of two models the first is
    ``lead``, else the one whose name comes first. Raises BenchError, naming the row, for what is not as documented.
    """
    import pandas as pd

    text = _as_text(judgments)
    if "stands" in judgments:
        text = text[_booleans(text, "stands") & (text["choice"] != "undo")]
    _check(text)
    left_first = _left_first(text, lead)
    choice, left, right = text["choice"], text["left_model"], text["right_model"]
    sided = np.where(left_first, 1.0, -1.0)
    known = text["kind"].isin(_KNOWN_ANSWER) & (choice != "skip")
    rows = pd.DataFrame(
        {
            "criterion": text["criterion"],
            "round": text["round"],
            "prompt": text["prompt_id"],
            "item": text["item"],
            "first": np.where(left_first, left, right),
            "second": np.where(left_first, right, left),
            "kind": text["kind"],
            "annotator": text["annotator"],
            "vote": choice.map({"left": 1.0, "right": -1.0, "tie": 0.0, "skip": np.nan}) * sided,
            "first_left": left_first,
            "right": np.where(known, (choice == text["better"]).astype(float), np.nan),
            "surplus": _booleans(text, "surplus"),
            "seconds": _numbers(text, "ms_total") / 1000,
            "cluster": pd.factorize(text["prompt_id"])[0],
        }
    )
    rows = rows.loc[_times(text).sort_values(kind="stable").index]
    _check_once(rows)
    return rows.reset_index(drop=True)


def _as_text(judgments: pd.DataFrame) -> pd.DataFrame:
    """The known columns as text, "" for what is missing; rows numbered from 1."""
    import pandas as pd

    absent = [name for name in REQUIRED if name not in judgments]
    if absent:
        found = ", ".join(map(str, judgments.columns[:8]))
        raise BenchError(f"the judgments lack the columns {', '.join(absent)}; found {found}")
    given = {
        name: judgments[name].astype("string").fillna("").str.strip().astype(object)
        if name in judgments
        else [default] * len(judgments)
        for name, default in (dict.fromkeys(REQUIRED, "") | OPTIONAL).items()
    }
    text = pd.DataFrame({name: list(values) for name, values in given.items()}, dtype=object)
    text.index = pd.RangeIndex(1, len(text) + 1)
    if "annotator" in judgments:
        _refuse(text, text["annotator"] == "", "has no annotator; leave out the column if annotators are not known")
    return text


def _check(text: pd.DataFrame) -> None:
    for name in ("prompt_id", "left_model", "right_model", "criterion", "round"):
        _refuse(text, text[name] == "", f"has no {name}")
    for name, allowed in (("choice", CHOICES), ("kind", KINDS)):
        _refuse(text, ~text[name].isin(allowed), f"has a {name} that is none of {', '.join(allowed)}", name)
    known = text["kind"].isin(_KNOWN_ANSWER)
    _refuse(text, known & ~text["better"].isin(("left", "right")), "has a known answer: better must be left or right")
    _refuse(text, ~known & (text["left_model"] == text["right_model"]), "compares a model with itself", "left_model")
    if not ((text["kind"] == "main") & (text["choice"] != "skip")).any():
        raise BenchError("there is no vote of the kind main: collect judgments first")


def _check_once(rows: pd.DataFrame) -> None:
    main = rows[(rows["kind"] == "main") & (rows["annotator"] != "")]
    again = main[main.duplicated([*PAIR, "annotator"])]
    if len(again):
        one = again.iloc[0]
        raise BenchError(
            f"judgments, row {again.index[0]}: annotator {one['annotator']} judged {one['first']} and {one['second']} "
            f"on {one['prompt']} before, under the same criterion and in the same round; call it a repeat in the "
            "column kind, or tell the images apart in the column item"
        )


def _left_first(text: pd.DataFrame, lead: str | None) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    left, right = (text[name].to_numpy(dtype=str) for name in ("left_model", "right_model"))
    main = (text["kind"] == "main").to_numpy()
    models = sorted({*left[main], *right[main]})
    if lead is not None and lead not in models:
        raise BenchError(f"there is no judgment of {lead}; the models are {', '.join(models)}")
    result: np.ndarray[tuple[int], np.dtype[np.bool_]] = (left == lead) | ((right != lead) & (left < right))
    return result


def _booleans(text: pd.DataFrame, name: str) -> pd.Series:
    lowered = text[name].str.lower()
    _refuse(text, ~lowered.isin(("true", "false", "1", "0")), f"must be true or false in {name}", name)
    return lowered.isin(("true", "1"))


def _numbers(text: pd.DataFrame, name: str) -> pd.Series:
    import pandas as pd

    numbers = pd.to_numeric(text[name], errors="coerce").astype(float)
    _refuse(text, (text[name] != "") & ~(numbers >= 0), f"needs a number of 0 or more as {name}", name)
    return numbers


def _times(text: pd.DataFrame) -> pd.Series:
    import pandas as pd

    given = text["created_at"] != ""
    times = pd.to_datetime(text["created_at"].where(given), utc=True, format="ISO8601", errors="coerce")
    _refuse(text, given & times.isna(), "needs a time in ISO 8601 as created_at", "created_at")
    return times


def _refuse(text: pd.DataFrame, wrong: pd.Series, why: str, column: str | None = None) -> None:
    if wrong.any():
        row = wrong.idxmax()
        found = f" (found {text.loc[row, column]!r:.60})" if column else ""
        raise BenchError(f"judgments, row {row} {why}{found}")


def natural(name: str) -> tuple[float, str]:
    """Sorts numbers by size, and before other names."""
    return (float(name), "") if name.isdecimal() else (math.inf, name)
