"""The pages that users read, and what stands in them."""

import posixpath
import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
METHODS = DOCS / "methods"
GUIDES = [page for page in sorted(DOCS.glob("**/*.md")) if METHODS not in page.parents]
PAGES = [ROOT / "README.md", *GUIDES]
"""Written by hand; pages of methods are generated."""
OTHERS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "recipes").glob("*.md")), *sorted(METHODS.glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#:]*)(?:#([^)\s]*))?\)")


def name_of(page: Path) -> str:
    """Relative to the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced code of a page in some languages; `""` are blocks that name none."""
    return [dedent(code) for _, language, code in FENCE.findall(page.read_text()) if language in languages]


def commands(page: Path) -> list[str]:
    """Command lines of `hf-mpq`, without comments and redirections, joined where a line goes on."""
    text = "\n".join(blocks(page, "", "bash")).replace("\\\n", " ")
    lines = [re.sub(r" +# .*| > \S+$", "", line.strip()) for line in text.splitlines()]
    return [part.strip() for line in lines for part in line.split(" && ") if part.strip().startswith("hf-mpq ")]


def links(page: Path) -> list[tuple[str, str]]:
    """`(path in the repository, anchor)` of every link to a file."""
    here = posixpath.dirname(name_of(page))
    found = LINK.findall(FENCE.sub("", page.read_text()))
    to = [(posixpath.normpath(posixpath.join(here, path)) if path else name_of(page), anchor) for path, anchor in found]
    return [one for one in to if one[0] != "."]


def anchors(page: Path) -> set[str]:
    """Of the headings, as the site and code hosts make them."""
    titles = re.findall(r"^#+ (.*?)\s*$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower() for title in titles]
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip()) for one in words}
