"""The pages that users read, and what stands in them: blocks of code, inline code, links, sentences."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CARD = ROOT / "training" / "checkpoints" / "emoji" / "MODEL_CARD.md"
NOTES = DOCS / "notes"
# Notes and the changelog are records of a date: nobody rewrites them when a name changes.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", CARD]
PAGES += sorted(path for path in DOCS.rglob("*.md") if NOTES not in path.parents)
RECORDS = [ROOT / "CHANGELOG.md", *sorted(NOTES.glob("*.md"))]

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'“(`*\[A-Z0-9])")


def id_of(path):
    return str(path.relative_to(ROOT))


def text_of(path):
    return path.read_text("utf-8")


def blocks(path, *languages):
    """The contents of the page's blocks of code in one of `languages`."""
    return [code for _, language, code in _BLOCK.findall(text_of(path)) if language in languages]


def prose(path):
    """The page without blocks of code."""
    return _BLOCK.sub("", text_of(path))


def inline_code(path):
    return _INLINE.findall(prose(path))


def shell_lines(path):
    """The commands in the page's blocks of shell code, without prompts."""
    lines = "".join(blocks(path, "sh", "console")).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip()]


def links(path):
    """Links of the page that do not leave the repository."""
    return [link for link in _LINK.findall(prose(path)) if not re.match(r"[a-z]+:", link)]


def anchors(path):
    """What headings of the page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sentences(path):
    """Sentences, items of lists and cells of tables, with code and addresses of links as one word each."""
    text = re.sub(r"\]\([^)]*\)", "]", _INLINE.sub("CODE", prose(path)))
    for part in re.split(r"\n\s*\n|\n\s*(?:[-*>]|\d+\.) |\n#+ |\n?^\||\|", text, flags=re.MULTILINE):
        yield from (" ".join(one.split()) for one in _SENTENCE_END.split(part) if one.strip())
