"""For the documentation's build: formulas become MathML, which a browser sets without a script, and the gallery's pages
are made by the programs that they show."""

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
GALLERY = {  # folder under gallery/: the program that fills it
    "demo": ["demo", "--quick", "--out"],
}


def on_page_markdown(markdown, page, config, **_):
    """Two pages show files that lie beside the documentation."""
    root = Path(config.docs_dir).parent
    if page.file.src_uri == "changelog.md":  # its links start at the README's folder
        return (root / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    if page.file.src_uri == "examples.md":
        return markdown + "".join(map(example, sorted((root / "examples").glob("*.py"))))
    return markdown


def example(path):
    """A program as a section: what its docstring says, and its code."""
    code = path.read_text(encoding="utf-8")
    says = ast.get_docstring(ast.parse(code))
    return f'\n## {path.stem.replace("_", " ")}\n\n{says}\n\n```python title="examples/{path.name}"\n{code}```\n'


def on_page_content(html, **_):
    """TeX in the page as MathML; a formula of its own scrolls where the screen is narrower than it."""

    def typeset(found):
        kind, tex = found.groups()
        tex = tex.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()
        if kind == "span":
            return convert(tex)
        return f'<div class="formula" tabindex="0">{convert(tex, display="block")}</div>'

    return FORMULA.sub(typeset, html)


def on_files(files, config):
    """The gallery's generated pages and pictures."""
    for name, arguments in GALLERY.items():
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([sys.executable, "-m", "multismooth", *arguments, out], check=True, capture_output=True)
            for path in sorted(Path(out).iterdir()):
                content = path.read_bytes()
                files.append(File.generated(config, f"gallery/{name}/{path.name}", content=content))
    return files
