"""What the pages of the documentation hold, for the tests that try it."""

import re
from dataclasses import dataclass
from pathlib import Path

from conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``language`` is empty for commands."""

    page: Path
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the first line, a comment, says it stands in."""
        found = re.match(r"# ([\w/]+\.(?:py|yaml))", self.text)
        return found and found[1]


def find_blocks(*pages: Path) -> list[Block]:
    """Return all fenced blocks of pages."""
    return [
        Block(page, language, text)
        for page in pages or PAGES
        for _, language, text in FENCE.findall(page.read_text(encoding="utf-8"))
    ]


def write_files(folder: Path, page: Path, suffix: str = ".py") -> list[str]:
    """Write the blocks of a page that name a file; return the files' names."""
    names = []
    for block in find_blocks(page):
        if block.file and block.file.endswith(suffix):
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)
            names.append(block.file)
    return names
