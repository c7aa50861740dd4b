"""Links lead somewhere, every page can be found, sentences are short, and numbers are those of the code."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import CARD, DOCS, PAGES, RECORDS, ROOT, anchors, id_of, links, prose, sentences, text_of

from textual_vision.export.parity.tolerance import TOLERANCES
from textual_vision.export.passes.manager import REWRITE_NAMES
from textual_vision.runtime import __all__ as runtime_names
from textual_vision.runtime import errors
from textual_vision.runtime.generation.specs import LabelSpec, LoopSpec, NoiseSpec, ParameterSpec, StartSpec
from textual_vision.runtime.golden import Golden, GoldenBudget, GoldenPicture
from textual_vision.runtime.manifest import (
    BatchProfile,
    EngineSpec,
    FileSpec,
    ImageSpec,
    Manifest,
    PrecisionSpec,
    StageSpec,
    TensorSpec,
    TextSpec,
)

MAX_WORDS = 25
GENERATED = {DOCS / "reference" / "cli.md", DOCS / "reference" / "training-config.md"}
PRIVATE = re.compile(
    r"\b(?:is|are|was|were) told\b|\bforetold\b|\bbeside\b|\bat hand\b|\bwoven\b|\bholds? on\b"
    r"|\bwhat is (?:moved|told|drawn|begun)\b|\bothers are\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", [*PAGES, *RECORDS], ids=id_of)
def test_every_link_leads_to_a_file_and_a_heading_in_it(page):
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_index():
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [
            (page.parent / link.partition("#")[0]).resolve() for link in links(page) if link[0] != "#"
        ]
    assert set(DOCS.rglob("*.md")) <= reached
    assert "docs/index.md" in text_of(ROOT / "README.md")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED], ids=id_of)
def test_a_sentence_can_be_read_once(page):
    long = [one for one in sentences(page) if len(one.split()) > MAX_WORDS]
    assert not long, f"{len(long)} sentences over {MAX_WORDS} words: {long[:3]}"


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_a_page_speaks_the_words_of_the_field(page):
    assert not PRIVATE.findall(prose(page))


def test_the_generated_reference_pages_are_up_to_date():
    script = DOCS / "reference" / "generate.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_field_of_a_training_config_has_a_meaning():
    rows = re.findall(
        r"^\| `([\w.]+)` \|.*\| (.*) \|$", text_of(DOCS / "reference" / "training-config.md"), re.M
    )
    assert len(rows) > 60
    assert [name for name, meaning in rows if not meaning.strip()] == []


def test_every_exit_code_is_on_its_page():
    text = text_of(DOCS / "reference" / "exit-codes.md")
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    for kind in kinds:
        assert f"`{kind.__name__}`" in text
        if issubclass(kind, errors.TextualVisionError):
            assert re.search(rf"^\| {kind.exit_code} \| `{kind.__name__}`", text, re.MULTILINE)


def test_every_rewrite_is_on_its_page():
    text = text_of(DOCS / "reference" / "passes.md")
    assert [name for name in REWRITE_NAMES if f"\n| `{name}` |" not in text] == []


def test_every_public_name_of_the_runtime_is_on_its_page():
    text = text_of(DOCS / "reference" / "python-api.md")
    assert [name for name in runtime_names if name not in text] == []


def test_every_field_of_the_manifest_is_on_its_page():
    text = text_of(DOCS / "reference" / "bundle-format.md")
    names = [field.name for field in dataclasses.fields(Manifest)]
    assert [name for name in names if f"\n| `{name}` |" not in text] == []
    parts = (TensorSpec, StageSpec, ImageSpec, TextSpec, PrecisionSpec, BatchProfile, EngineSpec, FileSpec)
    parts += (NoiseSpec, LabelSpec, ParameterSpec, StartSpec, LoopSpec, Golden, GoldenPicture, GoldenBudget)
    inner = {field.name for part in parts for field in dataclasses.fields(part)}
    assert sorted(name for name in inner if f"`{name}`" not in text) == []


def test_the_tolerances_on_the_page_are_those_of_the_code():
    text = text_of(DOCS / "explanation" / "parity.md")
    for precision, tolerance in TOLERANCES.items():
        row = re.search(rf"^\| {precision} \| (.*?) \| (\d+) dB \| cosine ([\d.]+) \|", text, re.MULTILINE)
        assert row is not None
        assert row[1] == (
            "all except near ties" if tolerance.codes == 1 else f"{tolerance.codes:.0%}".replace("%", " %")
        )
        assert (float(row[2]), float(row[3])) == (tolerance.picture_db, tolerance.cosine)


def test_every_score_of_an_evaluation_is_explained():
    scores = json.loads((CARD.parent / "evaluation.json").read_text("utf-8"))
    text = text_of(DOCS / "reference" / "metrics.md")
    about = {"checkpoint", "held_out_pictures", "features"}
    assert [name for name in scores if name not in about and f"| `{name}` |" not in text] == []


def test_the_numbers_of_the_model_card_are_those_of_the_evaluation():
    scores = json.loads((CARD.parent / "evaluation.json").read_text("utf-8"))
    text = text_of(CARD)
    alignment = scores["alignment"]
    expected = {
        "reconstruction": f"{scores['reconstruction']['psnr_db']:.1f} dB",
        "their ratio": f"{alignment['all']['share']:.3f}",
        "the ratio for known things in held-out styles": f"{alignment['heldout_pair']['share']:.2f}",
        "the ratio for things never seen": f"{alignment['test']['share']:.2f}",
        "R@1 of real pictures": f"{alignment['all']['real']:.3f}",
        "text codes used": f"{scores['text_codes']['used'] * 100:.0f} %",
        "distance between seeds of a prompt": f"{scores['diversity']['between_seeds']:.2f}",
    }
    for name, value in expected.items():
        assert f"| {name} | {value} |" in text
    for prompt, found in scores["recognition"]["prompts"].items():
        share = next(value for key, value in found.items() if key.startswith("recogni"))
        assert re.search(rf'^\| "{prompt}".* \| {share * 100:.0f} % \|', text, re.MULTILINE), prompt


def test_a_folder_of_the_repository_that_a_page_names_exists():
    for page in PAGES:
        for path in re.findall(r"`((?:training|export|runtime|docs|tests)/[\w./-]*)`", prose(page)):
            assert (ROOT / path).exists(), f"{id_of(page)}: {path}"
    assert Path(CARD).is_file()
