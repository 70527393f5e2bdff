"""CSV files of losses: what is read, and one line for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from archlab import ArchlabError, LossPoint
from archlab.planning import losses
from archlab.planning.backtest import rank_agreement
from archlab.planning.losses import read_losses

HEADER = "candidate,params,tokens,loss,seed"


def read(tmp_path: Path, text: str | bytes) -> tuple[list[LossPoint], list[str]]:
    file = tmp_path / "losses.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_losses(file)


def test_rows_are_read_however_they_are_written(tmp_path: Path) -> None:
    text = (
        "\ufefftokens,candidate, params ,loss,gpu,host\r\n"
        '2.5e7,"a, ""b""",1_000_000,3.25,h100,x\r\n'
        "\r\n , ,,,,\r\n"
        "+50000000.0, ü ,1E6,.5,,\r\n"
    )
    points, notes = read(tmp_path, text)
    assert points == [LossPoint('a, "b"', 1e6, 2.5e7, 3.25), LossPoint("ü", 1e6, 5e7, 0.5)]
    assert notes == ["columns that are not read: gpu, host"]


def test_seeds_are_names(tmp_path: Path) -> None:
    points, _ = read(tmp_path, f"{HEADER}\nx,1,2,3,0\nx,1,2,3,first\nx,1,2,3.5,1")
    assert [point.seed for point in points] == ["0", "first", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "losses.csv: is empty: a header with candidate, params, tokens, loss is expected"),
        (HEADER, "losses.csv: has a header and no losses"),
        ("candidate;params;tokens;loss\nx;1;2;3", "columns are separated by semicolons; commas are expected"),
        ("candidate\tparams\ttokens\tloss", "columns are separated by tabs; commas are expected"),
        ("candidate,param,tokens,loss\nx,1,2,3", "there is no column 'params'; did you mean 'param'"),
        ("candidate,params,tokens,loss,loss\n", "the column 'loss' appears twice"),
        (f"{HEADER}\nx,1,2,3,0\n\nx,1,2,-3,1", "losses.csv, row 4, column loss: '-3' is not a number above 0"),
        (f"{HEADER}\nx,0,2,3,0", "row 2, column params: '0' is not a number above 0"),
        (f"{HEADER}\nx,1,inf,3,0", "row 2, column tokens: 'inf' is not a number above 0"),
        (f"{HEADER}\nx,1,2,nan,0", "row 2, column loss: 'nan' is not a number above 0"),
        (f"{HEADER}\nx,1,2,,0", "row 2, column loss: is empty"),
        (f"{HEADER}\nx,1,7B,3,0", "row 2, column tokens: '7B' is not a number"),
        (f'{HEADER}\nx,1,2,"3,5",0', "column loss: '3,5' is not a number; a decimal point is expected"),
        (f"{HEADER}\n ,1,2,3,0", "row 2, column candidate: is empty"),
        (f"{HEADER}\nx,1,2,3", "row 2: has 4 cells, but the header 5"),
        (f"{HEADER}\nx,1,2,3,0\nx,1.0,2,4,0", "row 3: x of 1 params on 2 tokens, seed 0 stands in row 2 too"),
        (f'{HEADER}\n"x,1,2,3,0', "is not CSV: unexpected end of data"),
        (b"\xff\xfe\x00", "losses.csv: cannot be read: it is not UTF-8: byte 0xFF at 0"),
        (b"candidate\0,params", "is not text: it has NUL characters"),
    ],
)
def test_what_is_not_losses_is_refused_by_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ArchlabError) as refused:
        read(tmp_path, text)
    assert message in str(refused.value)
    assert "losses.csv" in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"none\.csv: cannot be read"):
        read_losses(tmp_path / "none.csv")


def test_a_file_of_many_megabytes_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_LARGEST_FILE", 2**20)
    text = f"{HEADER}\nx,1,2,3,0\n"
    assert len(read(tmp_path, text.ljust(2**20))[0]) == 1
    with pytest.raises(ArchlabError, match=r"losses\.csv: is larger than 1 MiB$"):
        read(tmp_path, text.ljust(2**20 + 1))


def test_rankings_are_compared_by_pairs_and_by_spearman() -> None:
    small = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    same = rank_agreement(small, {name: loss / 2 for name, loss in small.items()})
    assert (same.pairs, same.decision_accuracy, same.spearman) == (6, 1.0, pytest.approx(1.0))
    swapped = rank_agreement(small, {"a": 2.0, "b": 1.0, "c": 3.0, "d": 4.0, "e": 0.0})
    assert (swapped.decision_accuracy, swapped.spearman) == (pytest.approx(5 / 6), pytest.approx(0.8))
    assert rank_agreement({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}).decision_accuracy == 0.5
    with pytest.raises(ArchlabError, match="at least two candidates in common"):
        rank_agreement({"a": 1.0}, small)
