"""What a .csv means: which row names the columns, which columns name the rows, and what is said about either."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shrinkstats.adapters.commands.arrays import read

pytestmark = pytest.mark.core


@pytest.fixture
def table(tmp_path):
    def made(text):
        (tmp_path / "x.csv").write_text(text)
        return read(tmp_path / "x.csv")

    return made


def lines(*rows):
    return "\n".join(rows) + "\n"


NUMBERS = [[5.5, 4.25, 3.5], [6.5, 4.75, 2.5], [4.5, 3.25, 7.5], [5.25, 4.5, 1.5]]
BODY = [",".join(map(repr, row)) for row in NUMBERS]


@pytest.mark.parametrize(
    ("header", "index", "note"),
    [
        ("0,1,2", None, "the first row (0, 1, 2) names the columns"),
        (",0,1,2", "0123", "the first row (0, 1, 2) names the columns"),
        (",2001,2002,2003", "0123", "the first row (2001, 2002, 2003) names the columns"),
        (",7,3,5", "3102", "the first row (7, 3, 5) names the columns"),
        ("gene,0,1,2", ["g1", "nan", "g3", "7-b"], "the first row (gene, 0, 1, 2) names the columns"),
        ("id,2001,2002,2003", ["100", "7", "105", "3"], "the first row (id, 2001, 2002, 2003) names the columns"),
        ("a,nan,c", None, "the first row (a, nan, c) names the columns"),
    ],
)
def test_names_of_columns_that_read_as_numbers(table, header, index, note):
    rows = BODY if index is None else [f"{i},{row}" for i, row in zip(index, BODY, strict=True)]
    found = table(lines(header, *rows))
    assert found.values.tolist() == NUMBERS
    assert found.columns == header.split(",")[index is not None :]
    assert found.rows == (None if index is None else list(index))
    assert any(text.startswith(note) for text in found.notes)


@pytest.mark.parametrize(
    "rows",
    [
        ["0,1,2", "3,4,5", "6,7,8"],  # goes on, along the rows
        ["0,1,2", "1.5,2.5,3.5", "2,9,1"],
        ["0,1", "0.1,0.9", "0.2,0.7"],  # goes on, down a column
        ["0,1", "1,0", "1,1", "0,0"],  # values that come again
        ["1,2,3", "1.5,7.5,2.5", "1.5,9.5,3.5"],
        ["2001,2002,2003", *BODY],
        ["0", "1.5", "2.5"],
    ],
)
def test_a_first_row_that_may_be_data_is_data_and_is_named(table, rows):
    found = table(lines(*rows))
    assert found.values.tolist() == [[float(cell) for cell in row.split(",")] for row in rows]
    shown = rows[0].replace(",", ", ")
    assert found.notes[0].startswith(f"the first row ({shown}) is taken for numbers, not for names of columns")


@pytest.mark.parametrize(
    ("titles", "labels", "note"),
    [
        (["", ""], ["0,0", "0,1", "1,0", "1,1"], "the first 2 columns name the rows; they are not"),
        (["", "visit"], ["0,0", "0,1", "1,0", "1,1"], None),
        (["site", "sex"], ["A,f", "A,m", "B,f", "B,m"], "the first 2 columns (site, sex) name the rows; they are not"),
        (["level_0", "level_1"], ["0,0", "0,1", "1,0", "1,1"], "the first 2 columns (level_0, level_1) name the rows"),
        (["Unnamed: 0"], ["4", "2", "9", "0"], "the first column (Unnamed: 0) names the rows; it is not"),
        (["index"], ["10", "12", "14", "19"], "the first column (index) names the rows; it is not"),
        (["ID"], ["100", "101", "102", "103"], "the first column (ID) names the rows; it is not"),
        (["row"], ["3.0", "1.0", "2.0", "0.0"], "the first column (row) names the rows; it is not"),
        (["index"], ["0", "1", "0", "1"], "the first column (index) names the rows; it is not"),  # of pandas.concat
        (["gene"], ["g1", "nan", "1e5", "g4"], None),
        (["gene"], ["g1", "nan", "g3", "g4"], "the first column (gene) names the rows; it is not"),
        (["when"], ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"], "the first column (when) names the rows"),
        ([""], ["0.5", "1.5", "2.5", "3.5"], "the first column names the rows; it is not"),
    ],
)
def test_names_of_rows(table, titles, labels, note):
    text = lines(",".join([*titles, "a", "b", "c"]), *(f"{i},{row}" for i, row in zip(labels, BODY, strict=True)))
    if titles == ["", "visit"]:
        found = table(text)
        assert found.columns == ["visit", "a", "b", "c"]
        assert any(
            text.startswith("column 2 (visit) holds whole numbers only, and is taken for") for text in found.notes
        )
    elif note is None:
        with pytest.raises(ValueError, match=r"x\.csv, row 2, column 1 \(gene\): expected a number, got 'g1'"):
            table(text)
    else:
        found = table(text)
        assert found.values.tolist() == NUMBERS
        assert found.rows == [label.replace(",", "/") for label in labels]
        assert found.columns == ["a", "b", "c"]
        assert [text for text in found.notes if text.startswith(note)]


def test_a_column_that_may_name_the_rows_is_named(table):
    rows = [f"{i},{row}" for i, row in zip(("101", "105", "103", "90"), BODY, strict=True)]
    found = table(lines("subject,a,b,c", *rows))
    assert found.columns == ["subject", "a", "b", "c"]
    assert [note for note in found.notes if note.startswith("column 1 (subject) holds whole numbers only")]
    assert not table(lines("a,b,c", *BODY)).notes
    assert not table(lines("a,b,c", "1,2,3", "4,5,9")).notes  # whole throughout: nothing stands out


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (["a,b,c", "1,2,3", "x,3,4", "2,3,4"], r"row 3, column 1 \(a\): expected a number, got 'x'"),
        (["gene,a,b", "g1,1,2", "nan,x,4", "g4,5,6"], r"row 3, column 2 \(a\): expected a number, got 'x'"),
        (["gene,a,b", "g1,1,2", "7,3,y", "g4,5,6"], r"row 3, column 3 \(b\): expected a number, got 'y'"),
        (["a,b", "NA,1", "NA,2", "3,4"], r"row 2, column 1 \(a\): expected a number, got 'NA'"),
        (["word,1,2", "3,4,5.5", "4,5,6.5"], r"row 1, column 1: expected a number, got 'word'"),
        ([",a,a,b", ",0,1,0", "0,1.5,2.5,3.5", "1,2.5,3.5,4.5"], r"row 2: a second row of names"),
        ([",a,a,b", ",x,y,x", "0,1.5,2.5,3.5", "1,2.5,3.5,4.5"], r"row 2: a second row of names"),
        (["a,a,b", "x,y,x", "1.5,2.5,3.5", "2.5,3.5,4.5"], r"row 2, column 1 \(a\): expected a number, got 'x'"),
        ([",,", "1,2,3"], r"row 1: no cell is filled in"),
    ],
)
def test_errors_accuse_the_right_cell(table, rows, error):
    with pytest.raises(ValueError, match=rf"x\.csv, {error}"):
        table(lines(*rows))


def test_two_columns_of_one_name(table):
    found = table(lines("a,a,b", "0,1,0", *BODY))
    assert len(found.values) == 5
    assert [note for note in found.notes if note.startswith("several columns have one name (a)")]


def test_rows_without_a_number_are_missing_values(table):
    nan = float("nan")
    for text, values, empty in (
        (lines("x,y", "1,2", ",", "3,4"), [[1, 2], [nan, nan], [3, 4]], "row 3"),
        (lines("x,y", "1,2", ",", " , ", "3,4"), [[1, 2], [nan, nan], [nan, nan], [3, 4]], "rows 3, 4"),
        (lines("x", "1", '""', "3"), [[1], [nan], [3]], "row 3"),
        (lines(",x", "0,1", "1,", "2,3"), [[1], [nan], [3]], "row 3"),
    ):
        found = table(text)
        np.testing.assert_array_equal(found.values, values)
        assert [note for note in found.notes if note.startswith(f"{empty} without a number")]
    for blank in ("", "  ", "\r"):
        found = table(lines("x,y", "1,2", blank, "3,4", blank))
        assert found.values.tolist() == [[1, 2], [3, 4]]
        assert not found.notes


WORDS = st.text("abcxyz, \"'é", min_size=1, max_size=4).map(lambda word: "n" + word)


@st.composite
def frames(draw):
    """A DataFrame with any index and any names of columns."""
    import pandas

    n, k = draw(st.integers(2, 6)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    whole = draw(st.booleans())
    values = rng.integers(-9, 99, (n, k)) if whole else rng.normal(size=(n, k))
    if not whole and draw(st.booleans()):
        values[rng.random((n, k)) < 0.2] = np.nan
    several = pandas.MultiIndex.from_tuples
    level = st.one_of(WORDS, st.integers(0, 3))
    index = draw(
        st.one_of(
            st.just(pandas.RangeIndex(n)),
            st.permutations(range(n)).map(pandas.Index),
            st.lists(st.integers(-9, 2000), min_size=n, max_size=n).map(pandas.Index),
            st.lists(st.one_of(WORDS, st.sampled_from(["nan", "inf", "1e5", "7"])), min_size=n, max_size=n).map(
                pandas.Index
            ),
            st.lists(st.tuples(level, level), min_size=n, max_size=n).map(several),
            st.just(pandas.date_range("2020-01-01", periods=n)),
        )
    )
    columns = draw(
        st.one_of(
            st.just(pandas.RangeIndex(k)),
            st.just(pandas.RangeIndex(2001, 2001 + k)),
            st.lists(WORDS, min_size=k, max_size=k, unique=True).map(pandas.Index),
            st.lists(st.integers(-9, 2000), min_size=k, max_size=k).map(pandas.Index),
            st.lists(st.one_of(WORDS, st.integers(0, 9)), min_size=k, max_size=k).map(
                lambda names: pandas.Index(names, dtype=object)
            ),
            st.lists(st.tuples(st.sampled_from("ab"), level), min_size=k, max_size=k).map(several),
        )
    )
    title = draw(st.sampled_from([None, "index", "id"]))
    if index.nlevels == 1 and all(isinstance(label, int | np.integer) for label in index):
        index.name = title
    return pandas.DataFrame(values, index=index, columns=columns)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), index=st.booleans())
def test_what_pandas_writes(tmp_path_factory, data, index):
    """The numbers of the frame, or an error; where a table cannot tell names from numbers, a note names the row."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = data.draw(frames())
    levels = [frame.columns.get_level_values(i) for i in range(frame.columns.nlevels)]
    # A second row of names that are all numbers, below names that differ, looks like any row of data.
    assume(index or len(levels) == 1 or not levels[0].is_unique or any(isinstance(name, str) for name in levels[1]))
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    frame.to_csv(path, index=index)
    found, failure = None, ""
    try:
        found = read(path)
    except ValueError as error:
        failure = str(error)
    if found is None:
        assert failure.startswith(f"{path}, row ")  # a place to look at
        assert frame.columns.nlevels > 1 or len(set(map(type, frame.columns))) > 1  # else all is plain
        return
    expected = frame.to_numpy(dtype=float)
    if found.columns is not None and found.values.shape == expected.shape:
        np.testing.assert_array_equal(found.values, expected)
        if frame.columns.nlevels == 1:
            assert found.columns == [str(name).strip() for name in frame.columns]
    else:  # names that are numbers, without an index that tells
        assert [note for note in found.notes if "first row" in note or "one name" in note or "whole numbers" in note]
        assert not index or frame.columns.nlevels > 1
        np.testing.assert_array_equal(found.values[-len(expected) :], expected)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (["weight;height;count", "0,5;1,5;3", "0,7;1,7;4", "0,9;1,2;9"], r"row 2, column 1 \(weight\): .* got '0,5'; "),
        (
            ["weight;height;count", "5e-1;1,5;3", "-,7;1,7;4", "0,9e3;1,2;9"],
            r"row 2, column 2 \(height\): .* got '1,5'",
        ),
        (["a;b", "1.234,5;3", "2.345,5;4"], r"row 2, column 1 \(a\): .* got '1.234,5'; decimals take a point$"),
        (["0,5;1,5;3", "0,7;1,7;4"], r"row 2, column 1 \(0,5\): .* got '0,7'; decimals take a point$"),
        (["lead,iron", "<0.1,3", "<0.1,4", "<0.1,5", "0.3,6"], r"row 2, column 1 \(lead\): .* a limit is no number"),
        (["a,b", '3,"1,000"'], r"got '1,000'; thousands take no comma \(1000\), decimals a point \(1.000\)$"),
        (["a,b", '"-12,345",3'], r"got '-12,345'; thousands take no comma \(-12345\), decimals a point \(-12.345\)$"),
        (["a,b", '3,"0,500"'], r"got '0,500'; decimals take a point$"),
        (["a,b", '3,"1,0000"'], r"got '1,0000'; decimals take a point$"),
        (["a,b", '"1,234,567",2', '"1,234,568",2'], r"got '1,234,567'; thousands take no comma \(1234567\)$"),
        (["a,b", '3,"1,234.5"'], r"got '1,234.5'; thousands take no comma \(1234.5\)$"),
    ],
)
def test_what_is_meant_for_a_number_names_no_rows(table, rows, error):
    with pytest.raises(ValueError, match=error):
        table(lines(*rows))


@pytest.mark.parametrize("labels", [["<18", "18-65", ">65"], ["a,1", "b,2", "c,3"], ["1, 2", "x", "y"]])
def test_names_that_hold_digits_name_the_rows(table, labels):
    found = table(
        lines("group,a,b", *(f'"{label}",{row}' for label, row in zip(labels, ["1,2", "3,4", "5,7"], strict=True)))
    )
    assert found.rows == labels
    assert found.columns == ["a", "b"]
