"""The comparison on tables: sets that are whole, scores, what is run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench is run in place, never installed

from bench import table_sets, tables

pytest.importorskip("sklearn")


def loaded(name: str) -> Any:
    try:
        return table_sets.load(name)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", table_sets.SETS)
def test_sets_are_tables_of_finite_numbers(name: str) -> None:
    table = loaded(name)
    assert table.x.dtype == np.float64 and np.isfinite(table.x).all()
    assert table.x.ndim == 2 and len(table.x) == len(table.y) > 100
    assert not any(np.array_equal(column, table.y) for column in table.x.T)
    if table.classes:
        codes, counts = np.unique(table.y, return_counts=True)
        assert codes.tolist() == list(range(len(codes))) and counts.min() > 10
    else:
        assert table.y.dtype == np.float64 and table.y.std() > 0


def test_there_are_at_least_eight_sets_of_both_kinds() -> None:
    kinds = [classes for _, classes, _ in table_sets.SETS.values()]
    assert len(kinds) >= 8 and kinds.count(True) >= 4 and kinds.count(False) >= 4


def test_a_score_is_accuracy_or_r2_on_rows_held_out() -> None:
    for name in ("wine", "diabetes"):
        table = loaded(name)
        row = tables.measure(table, "boosted trees", 3)
        assert row["score"] == tables.measure(table, "boosted trees", 3)["score"]
        assert row["seconds"] > 0 and (row["set"], row["split"]) == (name, 3)
        assert 0.9 < row["score"] <= 1 if table.classes else 0.1 < row["score"] < 0.6


def test_rows_in_the_file_are_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tables.json"
    arguments = ["--sets", "wine", "--models", "boosted trees", "--json", str(path), "--splits"]
    assert tables.main([*arguments, "1"]) == 0
    first = json.loads(path.read_text())
    calls = []

    def measured(table: Any, model: str, split: int) -> dict[str, Any]:
        calls.append(split)
        return {**first[0], "split": split}

    monkeypatch.setattr(tables, "measure", measured)
    assert tables.main([*arguments, "2"]) == 0 and calls == [1]
    rows = json.loads(path.read_text())
    assert rows[0] == first[0] and len(rows) == 2
    output = capsys.readouterr().out
    assert f"| wine (scikit-learn) | 178 × 13 | accuracy | {100 * first[0]['score']:.2f}" in output


@pytest.mark.parametrize("option", [("--sets", "iris"), ("--models", "magic")])
def test_unknown_names_are_one_line(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        tables.main([*option])
    assert caught.value.code == 2
    assert f"'{option[1]}', expected some of " in capsys.readouterr().err


def test_the_mean_is_over_sets_and_within_them_over_splits() -> None:
    def row(name: str, split: int, score: float) -> dict[str, Any]:
        return {"set": name, "model": "RealMLP", "split": split, "score": score, "seconds": 2.0}

    rows = [row("wine", 0, 0.9), row("wine", 1, 1.0), row("diabetes", 0, 0.4)]
    text = tables.markdown(rows)
    assert "| 95.00 ± 7.1 |" in text and "| 40.00 |" in text
    assert "| **67.50** |" in text and "| 2.0 |" in text
