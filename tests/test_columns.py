"""Columns of tables: numbers or categories, missing values, and what training rows alone decide."""

import gzip
import io
import sys

import numpy as np
import pytest
from gradstep.train.datasets import make_dataset, make_split
from gradstep.train.encoding import Encoding, Scale
from gradstep.train.files import Reading, from_csv, load_dataset
from gradstep.train.frame import MOST_LEVELS, Choices
from gradstep.train.labels import measured

TABLE = "age,color,size,kind\n1,red,S,a\n2,blue,?,b\nNA,red,L,a\n4,green,S,b\n"


@pytest.fixture
def read(tmp_path):
    def read(text, name="table.csv", **reading):
        path = tmp_path / name
        content = text.encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return load_dataset(str(path), Reading(**reading))

    return read


def test_texts_are_categories_and_gaps_are_missing(read):
    data = read(TABLE)
    np.testing.assert_array_equal(data.x, [[1], [2], [np.nan], [4]])
    assert data.categories == (["red", "blue", "red", "green"], ["S", None, "L", "S"])
    assert [column.name for column in data.columns] == ["age", "color", "size"]
    assert data.notes[1:] == (
        "categories, with their levels, one-hot: color (3), size (2)",
        "missing: age (1), taken as the median, with a flag column",
        "missing: size (1), taken as a level",
    )


def test_validation_rows_teach_the_encoding_nothing(read):
    data = read(TABLE)
    split = make_split(data, np.array([0, 1]), np.array([2, 3]))
    assert split.encoding.names(["age", "color", "size"]) == [
        *("age", "color = blue", "color = red", "size = S", "size missing")
    ]
    np.testing.assert_array_equal(split.x, [[-1, 0, 1, 1, 0], [1, 1, 0, 0, 1]])
    # The median of 1 and 2; no flag, as no training row lacks it; green and L are unseen.
    np.testing.assert_array_equal(split.valid_x, [[0, 0, 1, 0, 0], [5, 0, 0, 1, 0]])


def test_missing_numbers_are_the_median_of_the_training_rows_and_a_flag():
    x = np.array([[1.0, 7], [np.nan, 7], [4, 7], [10, 7], [np.nan, np.nan], [6, 9]])
    data = make_dataset("m", x, [0, 1, 0, 1, 0, 1])
    assert data.notes == ("missing: 0 (2), 1 (1), taken as the median, with a flag column",)
    split = make_split(data, np.arange(4), np.array([4, 5]))
    known = np.array([1.0, 4, 4, 10])
    expected = (np.array([4, 6]) - known.mean()) / known.std()
    np.testing.assert_allclose(split.valid_x[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(split.valid_x[:, 1:], [[0, 1], [2, 0]])
    np.testing.assert_array_equal(split.x[:, 2], [0, 1, 0, 0])


def test_every_word_for_a_missing_value_is_known(read):
    words = ["", "NA", "nan", "?", "N/A", "null", "None", "-", "<NA>", "#N/A", " "]
    rows = "".join(f"{word},5,{'ab'[i % 2]}\n" for i, word in enumerate(words))
    data = read("u,v,k\n1,5,a\n2,5,b\n" + rows)
    assert np.isnan(data.x[2:, 0]).all() and len(data.categories) == 0
    data = read("u,k\n1,a\n2,b\nunknown,b\n3,a\n", missing=("unknown",))
    assert np.isnan(data.x[2, 0])


def test_a_slip_among_numbers_is_no_category(read):
    with pytest.raises(
        ValueError, match=r"line 4, column u: 'x', expected a finite .*--missing 'x'"
    ):
        read("u,k\n1,a\n2,b\nx,b\n3,a\n")
    codes = "".join(f"{i if i % 3 else f'{i}B'},{'ab'[i % 2]}\n" for i in range(60))
    data = read("code,u,k\n" + codes.replace(",", ",1,"), choices=Choices(categories=["code"]))
    assert data.categories[0][:3] == ["0B", "1", "2"]


def test_numbers_that_are_asked_for_are_categories_however_they_are_written(read):
    data = read("zip,u,k\n1.0,1,a\n1,2,b\n02,3,a\n2,4,b\n", choices=Choices(categories=["zip"]))
    assert data.categories == (["1", "1", "2", "2"],)


def test_names_and_empty_columns_are_left_out(read):
    rows = "".join(f"Person {i},,{i},{'ab'[i % 2]}\n" for i in range(50))
    data = read("name,gap,u,k\n" + rows)
    assert data.x.shape == (50, 1) and data.categories == ()
    assert data.notes[-1] == "left out: name (50 different texts), gap (no values)"
    data = read("name,gap,u,k\n" + rows, choices=Choices(categories=["name"], drop=["u"]))
    assert len(data.categories) == 1 and data.notes[-1].endswith("u (asked for)")


def test_rare_levels_beyond_the_limit_have_no_column():
    texts = [str(i) for i in range(MOST_LEVELS + 5)] + [str(i) for i in range(5, MOST_LEVELS + 5)]
    encoding = Encoding.fit(np.empty((len(texts), 0)), [texts])
    assert encoding.columns == MOST_LEVELS and "0" not in encoding.levels[0]
    rows = encoding.apply(np.empty((2, 0)), [["0", "7"]])
    assert rows.sum(axis=1).tolist() == [0, 1]


def test_a_limit_on_levels_is_said(read):
    data = read("code,k\n" + "".join(f"c{i % 150},{'ab'[i % 2]}\n" for i in range(600)))
    expected = "one-hot: code (150, the 100 most frequent have a column)"
    assert data.notes[1].endswith(expected)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("red,round,yes\nblue,flat,no\nred,flat,no\nblue,round,yes\n", False),
        ("color,shape,good\nred,round,yes\nblue,flat,no\nred,flat,yes\n", True),
        ("red,5,yes\nblue,6,no\nred,7,no\nblue,8,yes\n", False),
        ("color,n,good\nred,5,yes\nblue,6,no\nred,7,yes\n", True),
        ("red,5,1.5\nblue,6,2.5\nred,7,3.25\n", False),
        ("color,n,price\nred,5,1.5\nblue,6,2.5\nred,7,3.25\n", True),
    ],
)
def test_headers_above_categories_are_found(read, text, header):
    data = read(text)
    assert len(data.y) == text.count("\n") - header
    assert data.notes[0].startswith("line 1 taken as header" if header else "no header found")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "T.CSV.GZ"])
def test_text_tables_of_every_ending(read, name):
    text = TABLE.replace(",", "\t") if "tsv" in name else TABLE
    data = read(text, name)
    assert data.name == name and data.categories[0] == ["red", "blue", "red", "green"]


def test_a_tsv_is_split_at_tabs_alone(read):
    data = read("a\tk\n1,5;2\tx\n2,5;3\ty\n1,5;2\ty\n", "t.tsv")
    assert data.categories == (["1,5;2", "2,5;3", "1,5;2"],)


def test_standard_input_is_read_packed_or_not(monkeypatch):
    for content in (TABLE.encode(), gzip.compress(TABLE.encode())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        data = load_dataset("-")
        assert data.name == "standard input" and len(data.y) == 4
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="data: standard input: standard input is closed"):
        load_dataset("-")


def test_damaged_gzip_is_told(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode() * 9)[:-12])
    with pytest.raises(ValueError, match=r"t\.csv\.gz: damaged file"):
        from_csv(path)


def test_parquet_is_read_like_text(tmp_path, read):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    large = 2**60
    columns = {
        "age": [1.0, 2.0, None, 4.0],
        "id": [large, large + 1, large + 3, large],
        "color": ["red", "blue", "red", None],
        "flag": [True, False, True, True],
        "nested": [[1], [2], [3], [4]],
        "kind": ["a", "b", "a", "b"],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column nested: list.*, expected .* \(--drop nested\)"):
        load_dataset(str(tmp_path / "t.parquet"))
    drop = Choices(drop=["nested"])
    data = load_dataset(str(tmp_path / "t.parquet"), Reading(choices=drop))
    np.testing.assert_array_equal(data.x, [[1, 0], [2, 1], [np.nan, 3], [4, 0]])
    assert data.categories == (["red", "blue", "red", None], ["True", "False", "True", "True"])
    assert data.classes == ("a", "b") and data.notes[0] == "label column kind (the last)"
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        load_dataset(str(tmp_path / "t.parquet"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow, .* pip install 'gradstep\[parquet\]'"):
        load_dataset(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([str(i) for i in range(21)], "21 different numbers"),
        ([str(i % 21) for i in range(200)], None),
        ([str(i % 21) for i in range(63)], "21 different numbers"),
        ([str(i % 20) for i in range(20)], None),
        (["0.5", "1", "NA"], "fractions such as 0.5"),
        (["0.5", "1", "b"], None),
        (["1.0", "2.0"], None),
        ([*[str(i % 30) for i in range(3000)], "99"], "31 different numbers"),
    ],
)
def test_measurements_are_told_from_classes(labels, reason):
    assert measured(labels) == reason
    if reason is None or "NA" not in labels:
        numbers = [label for label in labels if label != "b"]
        if len(numbers) == len(labels):
            assert measured(np.array(numbers, np.float64)) == reason


def test_task_is_found_out_said_and_can_be_told(read):
    text = "u,price\n" + "".join(f"{i},{i / 4}\n" for i in range(9))
    data = read(text)
    assert data.task == "regression" and data.classes == ()
    assert data.notes[1] == "regression, as the labels are fractions such as 0.25"
    np.testing.assert_array_equal(data.y, np.arange(9) / 4)
    classes = read(text, task="classification")
    assert classes.task == "classification" and classes.classes[:2] == ("0.0", "0.25")
    whole = read("u,k\n1,3\n2,4\n5,3\n", task="regression")
    assert whole.task == "regression" and len(whole.notes) == 1
    with pytest.raises(ValueError, match="y: 'b' in line 3, column k, expected a finite number"):
        read("u,k\n1,3\n2,b\n", task="regression")
    with pytest.raises(ValueError, match="y: 3 in all rows, expected different numbers"):
        read("u,k\n1,3\n2,3\n", task="regression")


def test_classes_in_the_first_column_are_hinted_at(read):
    text = "".join(f"{i % 3},{i / 7}\n" for i in range(30))
    hint = "; the first column has 3 values: if they are the classes, --label first"
    assert read(text).notes[1].endswith(hint)
    assert all("--label first" not in note for note in read(text, label="last").notes)
    letters = read("".join(f"{'TSR'[i % 3]},{i % 4},{i % 5}\n" for i in range(30)))
    assert letters.notes[1] == hint[2:]
    plain = read("room,u,k\n" + "".join(f"{i % 3},{i},{'ab'[i % 2]}\n" for i in range(30)))
    assert len(plain.notes) == 1
    with pytest.raises(ValueError, match=r"y: one class \(0\), .* --label first"):
        read("0,1,0\n1,2,0\n0,1,0\n1,2,0\n")


def test_targets_are_scaled_by_the_training_rows():
    y = np.array([1.0, 3.0, 100.0])
    split = make_split(make_dataset("s", np.eye(3), y, task="regression"), np.arange(2), [2])
    assert split.scale == Scale(2.0, 1.0)
    assert split.y.tolist() == [-1, 1] and split.valid_y.tolist() == [98]


def test_an_encoding_comes_back_from_its_state():
    numbers, categories = np.array([[1.0, np.nan], [2.0, 5.0], [4.0, 8.0]]), [["a", None, "b"]]
    encoding = Encoding.fit(numbers, categories)
    again = Encoding.from_state(encoding.state())
    assert again.levels == encoding.levels == (("a", "b", None),)
    np.testing.assert_array_equal(
        again.apply(numbers, categories), encoding.apply(numbers, categories)
    )
