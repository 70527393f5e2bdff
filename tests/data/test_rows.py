"""The rows of a file are indexed once and read one by one."""

from archlab.data import rows


def test_rows_are_found_across_the_chunks_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "CHUNK", 7)
    lines = [f"{'x' * (number % 5)}\t{number}" for number in range(50)]
    (tmp_path / "table.tsv").write_text("\n".join(lines))
    table = rows.Rows(str(tmp_path / "table.tsv"), 2, 1)
    assert len(table) == 49
    assert [table[number] for number in range(49)] == [line.encode().split(b"\t") for line in lines[1:]]
    assert table.locate(0).endswith("table.tsv:2")
