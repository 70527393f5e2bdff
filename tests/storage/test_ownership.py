"""What a killed writer has left may be deleted; a link of that name is a user's."""

from __future__ import annotations

from pathlib import Path

from archlab.storage.ownership import RUN, first_foreign


def test_leftovers_of_a_killed_writer_are_archlab_s_and_a_link_is_not(tmp_path: Path) -> None:
    partial = tmp_path / ".final.0123abcd.archlab-partial"
    partial.mkdir()
    (partial / "model.safetensors").write_text("half")
    (tmp_path / ".final.archlab-replaced").mkdir()
    (tmp_path / "checkpoints/.step_00000001.0123abcd.archlab-partial").mkdir(parents=True)
    assert first_foreign(tmp_path, RUN) is None
    link = tmp_path / "checkpoints/.step_00000002.0123abcd.archlab-partial"
    link.symlink_to(partial)
    assert first_foreign(tmp_path, RUN) == link
