"""Follow every link of the built site that stays in it, and count those that leave it.

Run: python docs/site/check_links.py build/site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag links to, and what it can be found by."""
        for name, value in attrs:
            if value and (name in ("href", "src")):
                self.links.add(value)
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)


def check(site: Path) -> tuple[list[str], set[str]]:
    """Return the links that lead nowhere, and the addresses outside."""
    pages = {file.resolve(): Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    broken, outside = [], set()
    for file, page in pages.items():
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                outside.add(link)
                continue
            target = (file.parent / unquote(url.path)).resolve() if url.path else file
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(url.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{file.relative_to(site.resolve())}: {link}")
    return broken, outside


def main() -> int:
    """Print both, and fail if a link leads nowhere."""
    site = Path(sys.argv[1])
    broken, outside = check(site)
    print("\n".join(broken) or "Every link inside the site leads somewhere.")
    (site.parent / "external_links.txt").write_text("\n".join(sorted(outside)) + "\n")
    print(f"{len(outside)} addresses outside, which were not fetched: {site.parent / 'external_links.txt'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
