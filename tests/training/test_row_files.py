"""Files of rows: what is written there is what is trained on, or one sentence says why not."""

import csv
import gzip
import json

import pytest

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import preference_rows

ROW = {"prompt": "w3 w4", "completion": "w5", "reward": 0.3, "reference_rewards": [0.1, 0.2]}
MESSAGES = [{"role": "user", "content": 'say "hi", please'}]


def loaded(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(preference_rows.load(path, "train"))


def written_as_csv(folder, rows):
    path = folder / "rows.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in rows
        )
    return list(preference_rows.load(path, "train"))


@pytest.mark.parametrize(
    "text", ["None", "NA", "null", "nan", "42", "007", "1e5", "True", "2024-01-01", "a\r\nb", " x "]
)
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_a_text_stays_the_text_that_it_is(kind, text, tmp_path):
    """Where a column holds such texts alone, others read numbers, dates or nothing at all."""
    rows = [{"prompt": text, "completion": text, "reward": 0.5}] * 2
    if kind == "csv":
        found = written_as_csv(tmp_path, rows)
    else:
        content = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
        found = loaded(tmp_path, f"rows.{kind}", content)
    assert found == rows


def test_messages_in_csv_are_messages(tmp_path):
    rows = [{"prompt": MESSAGES, "completion": [{"role": "assistant", "content": "a, b\nc"}], "reward": 1.0}]
    assert written_as_csv(tmp_path, rows) == rows
    assert loaded(tmp_path, "rows.csv", 'prompt\n"[1, 2]"\n[x]\n') == [{"prompt": "[1, 2]"}, {"prompt": "[x]"}]


def test_other_columns_of_csv_are_numbers_where_all_of_them_are(tmp_path):
    content = "prompt,n,x,right,name,gap,\n" + "".join(
        f"a,{n},{x},{right},{name},{gap},{i}\n"
        for i, (n, x, right, name, gap) in enumerate([(3, 0.5, "True", "007", ""), (-4, "1e-3", "False", "x", 2)])
    )
    assert loaded(tmp_path, "rows.csv", content) == [
        {"prompt": "a", "n": 3, "x": 0.5, "right": True, "name": "007", "gap": None},
        {"prompt": "a", "n": -4, "x": 1e-3, "right": False, "name": "x", "gap": 2},
    ]


def test_a_cell_may_be_long(tmp_path):
    text = "x" * 200_000
    limit = csv.field_size_limit()
    assert loaded(tmp_path, "rows.csv", f"prompt\n{text}\n") == [{"prompt": text}]
    assert csv.field_size_limit() == limit


def test_json_may_hold_rows_of_several_forms_and_lines(tmp_path):
    rows = [ROW, ROW | {"prompt": MESSAGES, "more": {"a": 1}}]
    assert loaded(tmp_path, "rows.json", json.dumps(rows, indent=1)) == rows
    assert loaded(tmp_path, "rows.json", "\n".join(map(json.dumps, rows))) == rows
    assert loaded(tmp_path, "ROWS.JSONL", json.dumps(ROW)) == [ROW]
    assert loaded(tmp_path, "rows.json", json.dumps(ROW, indent=1)) == [ROW]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", "prompt;completion\na;b\n", "has one column, 'prompt;completion': separate columns by commas"),
        ("rows.csv", "prompt,completion\na,b\na\n", "Line 3 .* has 1 values for 2 columns"),
        ("rows.csv", "prompt,completion\na,b,c\n", "Line 2 .* has 3 values for 2 columns"),
        ("rows.csv", "prompt,prompt\na,b\n", "several columns prompt"),
        ("rows.csv", 'prompt,completion\na,"b\n', "is not CSV"),
        ("rows.csv", "prompt\né\n".encode("latin-1"), "is not UTF-8"),
        ("rows.json", '[{"prompt": "a"},\n {"prompt": ]', "Line 2 of .* is not JSON"),
        ("rows.json", '[{"prompt": "a"}, 5]', "Row 1 of .* is not an object"),
        ("rows.jsonl", '{"reward": 1' + "0" * 5000 + "}", "Line 1 of .* cannot be read"),
        ("rows.jsonl", '{"a": ' + "[" * 100_000 + "}", "Line 1 of"),
        pytest.param(
            "rows.jsonl.gz",
            gzip.compress(json.dumps(ROW).encode(), mtime=0),
            "unpack one that is compressed",
            id="compressed",
        ),
    ],
)
def test_files_that_cannot_be_read(name, content, said, tmp_path):
    with pytest.raises(InputError, match=said):
        loaded(tmp_path, name, content)


def test_a_file_with_a_header_alone_has_no_rows(tmp_path):
    assert loaded(tmp_path, "rows.csv", "prompt,completion\n") == []
