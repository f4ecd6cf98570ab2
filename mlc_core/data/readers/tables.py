"""Tables on disk: CSV, TSV, JSON lines and Parquet, as a header and rows that have as many cells.

Not here: what a column means (manifest.py, openimages.py).
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mlc_core.data.listing import Problem, quoted
from mlc_core.data.readers.files import File, bytes_of, text_of
from mlc_core.errors import BadData

MOST_ROWS: Final = 5_000_000  # of a Parquet file: a few of its bytes can claim billions
BATCH: Final = 1000  # rows of a Parquet file that are in memory at once, unpacked


@dataclass(frozen=True, slots=True)
class Table:
    """What a table says.

    Attributes
    ----------
    rows : sequence of (where, cells)
        ``labels.csv, row 17`` and one cell a column: text, or what JSON or Parquet hold.
    """

    file: File
    header: tuple[str, ...]
    rows: Sequence[tuple[str, Sequence[object]]]
    problems: tuple[Problem, ...] = ()


def delimited(file: File, delimiter: str) -> Table:
    """Read CSV (RFC 4180) with any delimiter; row 1 is the header, as in a spreadsheet.

    Raises
    ------
    BadData
        The file is not such a table as a whole.
    """
    lines = records(file, text_of(file), delimiter)
    header = next((tuple(name.strip() for name in cells) for _, cells in lines), ())
    if not header:
        raise BadData(f"{file.name}: it holds no header. Write the names of the columns into the first row.")
    rows: list[tuple[str, Sequence[object]]] = []
    problems = []
    for where, cells in lines:
        if len(cells) == len(header):
            rows.append((where, cells))
        else:
            problems.append(Problem(where, f"it has {len(cells)} cells, the header {len(header)}. Mend the row."))
    return Table(file, _distinct(file, header), rows, tuple(problems))


def records(file: File, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Split delimited text into cells, row by row; without empty rows."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if cells:
                yield f"{file.name}, row {number}", cells
    except csv.Error as error:
        # What follows a quote that is never closed cannot be told apart, so no row after it can be trusted.
        raise BadData(f"{file.name}, row {number + 1}: it is not valid CSV: {error}. Mend the quotes.") from None


def json_lines(file: File) -> Table:
    """Read one JSON object a line, all with the keys of the first.

    Raises
    ------
    BadData
        There is no line, or the first one is no object.
    """
    rows: list[tuple[str, Sequence[object]]] = []
    problems = []
    header: tuple[str, ...] = ()
    for number, line in enumerate(text_of(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file.name}, row {number}"
        try:
            record = _object(line)
        except ValueError as error:
            if not header:
                raise BadData(f"{where}: {error}. Write one JSON object a line.") from None
            problems.append(Problem(where, f"{error}. Write one JSON object a line."))
            continue
        header = header or tuple(record)
        if len(record) == len(header) and all(key in record for key in header):
            rows.append((where, [record[key] for key in header]))
        else:
            problems.append(Problem(where, "it has other keys than the first row. Give all rows the same keys."))
    if not header:
        raise BadData(f"{file.name}: it holds no JSON object.")
    return Table(file, header, rows, tuple(problems))


def first_object(head: str) -> Sequence[str]:
    """Return the keys of the object on the first line; none where there is none."""
    try:
        return tuple(_object(head.lstrip().partition("\n")[0]))
    except ValueError:
        return ()


def _object(line: str) -> dict[str, object]:
    """Decode one line, or say by a ValueError what it is instead."""
    try:
        return msgspec.json.decode(line, type=dict[str, object])
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise ValueError(f"it is not what it should be: {error}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None


def parquet(file: File) -> Table:
    """Read a Parquet file; rows are counted from 1.

    Raises
    ------
    BadData
        pyarrow is not installed, or does not understand the file.
    """
    try:
        import pyarrow as pa  # an extra, and heavy
        from pyarrow import parquet as pq
    except ImportError:
        raise BadData(f"{file.name}: Parquet needs pyarrow. Run: pip install 'mlc-search[parquet]'") from None
    data = bytes_of(file)
    rows: list[tuple[str, Sequence[object]]] = []
    try:
        opened = pq.ParquetFile(pa.BufferReader(data))
        if opened.metadata.num_rows > MOST_ROWS:
            raise BadData(f"{file.name}: it has {opened.metadata.num_rows} rows; {MOST_ROWS} are allowed.")
        header = tuple(str(name) for name in opened.schema_arrow.names)
        for batch in opened.iter_batches(BATCH, use_threads=False):
            columns = [[_plain(cell) for cell in column.to_pylist()] for column in batch.columns]
            numbered = enumerate(zip(*columns, strict=True), start=len(rows) + 1)
            rows += [(f"{file.name}, row {number}", cells) for number, cells in numbered]
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise BadData(f"{file.name}: it is not a Parquet file that can be read: {quoted(reason)}.") from None
    return Table(file, _distinct(file, header), rows)


def _plain(cell: object) -> object:
    """Take NaN, which pandas writes for what is missing, as missing."""
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def _distinct(file: File, header: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for name, count in Counter(header).items() if count > 1), None)
    if twice is not None:
        raise BadData(f"{file.name}, row 1: two columns are called {quoted(twice)}. Give each a name of its own.")
    return header
