"""The card of a model folder says what is known and keeps what people wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_model_folder import tiny_model_folder, tiny_parts

from stages import pack
from stages.artifacts.checkpoint import load_checkpoint
from stages.artifacts.storage import read_json, verify_checksums
from stages.errors import StorageError, UsageError
from stages.reports.model_card import About, licence_of, license_text, with_front_matter

LICENSE = Path(__file__).parents[2] / "LICENSE"


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[str, str, str]:
    return tiny_parts(tmp_path_factory.mktemp("parts"))


def packed(parts, folder: Path, **about) -> str:
    """Pack and return the card."""
    pack.run(*parts, str(folder), about=About(**about))
    return (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_card_says_sizes_rates_parents_and_how_to_use_it_well(speaking_model):
    card = (speaking_model / "MODEL_CARD.md").read_text(encoding="utf-8")
    said = read_json(speaking_model / "model.json")
    assert "HALL-E" in card and "24,000 Hz" in card and "quant1 24 Hz, quant2 48 Hz" in card
    assert f"{said['bits_per_second'] / 1000:g} kbit/s" in card and f"ar {said['parameters']['ar']:,}" in card
    assert "2.0 s, 160 text tokens" in card and "`cc-by-4.0`" in card
    for part in ("codec", "ar", "nar"):
        checkpoint = load_checkpoint(speaking_model / part)
        origin = ", ".join(f"{name} `{found[:12]}`" for name, found in sorted(checkpoint.parents.items()))
        assert f"| {part} | `{checkpoint.fingerprint[:12]}` | {origin} |" in card
    assert "consent of the person" in card and "synthetic" in card


def test_the_card_may_be_changed_and_the_model_stays_whole(tmp_path):
    folder = tiny_model_folder(tmp_path / "model")
    (folder / "MODEL_CARD.md").write_text("# Mine\n", encoding="utf-8")
    verify_checksums(folder)
    (folder / "model.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StorageError):
        verify_checksums(folder)


def test_what_people_wrote_is_kept_and_what_pack_wrote_is_written_anew(parts, tmp_path):
    folder = tmp_path / "model"
    assert "`unknown`: it was not told" in packed(parts, folder)
    assert not (folder / "LICENSE").exists() and "license" not in read_json(folder / "model.json")
    assert "`cc-by-4.0`" in packed(parts, folder, license="cc-by-4.0"), "the card is its own: written anew"
    assert "`cc0-1.0`" in packed(parts, folder, license="cc0-1.0")
    assert "CC0 1.0" in (folder / "LICENSE").read_text(encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text("# Mine\n", encoding="utf-8")
    (folder / "LICENSE").write_text("Ask me.\n", encoding="utf-8")
    assert packed(parts, folder, license="cc-by-4.0") == "# Mine\n"
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "Ask me.\n"


def test_a_card_that_is_given_takes_its_place_and_names_the_licence(parts, tmp_path):
    given = tmp_path / "card.md"
    given.write_text("---\nlicense: cc-by-4.0\n---\n# Given\n", encoding="utf-8")
    folder = tmp_path / "model"
    packed(parts, folder)
    assert packed(parts, folder, card=str(given)).endswith("# Given\n")
    assert packed(parts, folder).endswith("# Given\n"), "kept when packed again"
    assert read_json(folder / "model.json")["license"] == "cc-by-4.0" and (folder / "LICENSE").exists()


def test_a_card_that_is_missing_or_not_in_yaml_is_refused_before_anything_is_written(parts, tmp_path):
    with pytest.raises(StorageError, match=r"could not read `.*none\.md`"):
        packed(parts, tmp_path / "model", card=str(tmp_path / "none.md"))
    (tmp_path / "card.md").write_text("---\nlicense: [\n---\n# Given\n", encoding="utf-8")
    with pytest.raises(UsageError, match="front matter of the card is not YAML"):
        packed(parts, tmp_path / "model", card=str(tmp_path / "card.md"))
    assert not (tmp_path / "model").exists()


def test_a_readme_in_the_folder_is_its_card(parts, tmp_path):
    folder = tmp_path / "model"
    packed(parts, folder)
    (folder / "MODEL_CARD.md").rename(folder / "README.md")
    (folder / "README.md").write_text("# Mine\n", encoding="utf-8")
    pack.run(*parts, str(folder))
    assert not (folder / "MODEL_CARD.md").exists() and (folder / "README.md").read_text(encoding="utf-8") == "# Mine\n"


@pytest.mark.parametrize("licence, metadata", [
    ("CC-BY-4.0", {"license": "cc-by-4.0"}),
    ("my own", {"license": "other", "license_name": "my own", "license_link": "LICENSE"}),
])  # fmt: skip
def test_a_licence_is_named_as_the_hub_knows_it(licence, metadata):
    said = yaml.safe_load(with_front_matter("# Card", {"license": licence, "language": "no"}).split("---\n")[1])
    assert {key: value for key, value in said.items() if key.startswith("license")} == metadata
    assert said["language"] == ["no"]


def test_licence_texts_are_whole_or_by_reference_as_they_ask_for():
    assert license_text("apache-2.0") == LICENSE.read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode" in license_text("cc-by-nc-sa-4.0")
    assert "https://creativecommons.org/publicdomain/zero/1.0/legalcode" in license_text("cc0-1.0")
    assert license_text("mit") is None and license_text("cc-by-4.0-but-not-really") is None


def test_several_licences_are_refused_in_words():
    with pytest.raises(UsageError, match="expected one licence"):
        licence_of("---\nlicense: [mit, apache-2.0]\n---\n# Card\n")
