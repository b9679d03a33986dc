"""Ids of half characters become file names like all others, and do not stop a corpus."""

from stages.curation.clips import file_names
from stages.curation.work import belongs_to
from stages.metrics.cases import file_stem


def test_an_id_with_half_a_character_is_a_file_name_and_somebody_s():
    ids = ["\ud800", "\ud801" * 200, "a"]
    names = file_names(ids)
    assert len(set(names.values())) == 3 and all(name.isascii() and len(name) < 130 for name in names.values())
    assert [sum(belongs_to(name, rank, 3) for rank in range(3)) for name in ids] == [1, 1, 1]
    assert file_stem("\ud800") == "%ED%A0%80" and file_stem("a b") == "a b"
