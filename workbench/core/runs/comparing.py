"""What differs between two stored results of one analysis?

1. Rows are matched by the columns that say what they are about: words, and after them whole numbers
   from the left, until no two rows of a table are alike. Where rows still are, they are counted.
2. Each other column of numbers is a measure; its rows are put side by side, the largest difference
   first. A row that only one of both has comes last.
3. What made them is compared apart: model, parameters, seed, versions.

Limits: a difference has no interval here, so it says nothing of chance. Measures of different units
stand in one table, which is ordered by bare size.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core import results

if TYPE_CHECKING:
    import pandas as pd

# Of no interest to somebody who asks why two results differ.
_ALWAYS_DIFFERENT = {"wall_time", "created"}


def differences(first: results.Result, second: results.Result) -> pd.DataFrame:
    """Put the tables of two results side by side.

    Args:
        first: Any result.
        second: One of the same class.

    Returns:
        A row a measure of what both are about, with the columns `measure`, `first`, `second` and
        `difference` (second minus first) after those that say what it is about.

    Raises:
        ValueError: If they are of different classes, or their tables have different columns.
    """
    import pandas as pd

    if type(first) is not type(second):
        raise ValueError(
            f"a {type(first).__name__} and a {type(second).__name__} cannot be compared: expected "
            "two results of one kind"
        )
    tables = [first.to_frame().reset_index(drop=True), second.to_frame().reset_index(drop=True)]
    columns = [list(map(str, table.columns)) for table in tables]
    if columns[0] != columns[1]:
        only = sorted(set(columns[0]) ^ set(columns[1]))
        raise ValueError(
            f"the tables have different columns ({', '.join(only[:5])}), so that they cannot be "
            "compared"
        )
    for table in tables:
        table.columns = columns[0]
    keys = _keys(tables)
    if any(table.duplicated(keys).any() if keys else len(table) > 1 for table in tables):
        for table in tables:
            nth = table.groupby(keys, dropna=False).cumcount() if keys else range(len(table))
            table["nth"] = nth
        keys = [*keys, "nth"]
    measures = [
        name
        for name in columns[0]
        if name not in keys and all(_is_number(table[name]) for table in tables)
    ]
    long = [_long(table, keys, measures) for table in tables]
    names = {"value_x": "first", "value_y": "second"}
    found = pd.merge(long[0], long[1], on=[*keys, "measure"], how="outer").rename(columns=names)
    found["difference"] = found["second"] - found["first"]
    # What is not known is sorted last.
    order = np.argsort(-np.abs(found["difference"].to_numpy(dtype=float)), kind="stable")
    return found.iloc[order].reset_index(drop=True)


def parted(first: results.Provenance, second: results.Provenance) -> list[tuple[str, str, str]]:
    """What made two results, as far as it differs.

    Args:
        first: Of one.
        second: Of the other.

    Returns:
        What it is, and what it was for each, as JSON; empty where one of both has it not.
    """
    both = [_flat(first), _flat(second)]
    names = dict.fromkeys([*both[0], *both[1]])
    return [
        (name, both[0].get(name, ""), both[1].get(name, ""))
        for name in names
        if both[0].get(name) != both[1].get(name)
    ]


def _keys(tables: list[pd.DataFrame]) -> list[str]:
    from pandas.api import types as kinds

    columns = list(tables[0].columns)

    def whole(name: str) -> bool:
        parts: list[Any] = [table[name] for table in tables]
        return all(kinds.is_integer_dtype(part) for part in parts)

    keys = [name for name in columns if not all(_is_number(table[name]) for table in tables)]
    for name in filter(whole, columns):
        if keys and not any(table.duplicated(keys).any() for table in tables):
            break
        keys.append(name)
    return keys


def _is_number(column: Any) -> bool:
    from pandas.api import types as kinds

    return kinds.is_numeric_dtype(column) and not kinds.is_bool_dtype(column)


def _long(table: pd.DataFrame, keys: list[str], measures: list[str]) -> pd.DataFrame:
    import pandas as pd

    # Of other types in the other table, or a list, which cannot be matched.
    about = table[keys].astype(str)
    parts = [
        about.assign(
            measure=name, value=[math.nan if pd.isna(x) else float(x) for x in table[name]]
        )
        for name in measures
    ]
    if not parts:
        return about.iloc[:0].assign(measure="", value=0.0)
    return pd.concat(parts, ignore_index=True)


def _flat(made: results.Provenance) -> dict[str, str]:
    plain: dict[str, Any] = dataclasses.asdict(made)
    found: dict[str, str] = {}
    for name, value in plain.items():
        if name in _ALWAYS_DIFFERENT:
            continue
        inner: dict[str, Any] = value if isinstance(value, dict) else {"": value}
        for key, item in inner.items():
            found[f"{name} {key}".strip()] = json.dumps(item, sort_keys=True, default=str)
    return found
