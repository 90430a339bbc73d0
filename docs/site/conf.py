"""The documentation as a static site: `tools/build_site`, which has the checkout's root as source.

The guides are the Markdown files that people also read beside the code; the pages of the API come
from docstrings, those of examples from examples/, and are made here.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MADE = ROOT / "docs" / "site" / "made"

project = "gradstep"
copyright = "gradstep's authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx_design"]
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/site/made/**.md",
    "bench/results/**.md",
    "bench/results/*.md",
    "examples/torch/*.md",
]
html_theme = "furo"
html_title = "gradstep"
html_copy_source = False
html_show_sourcelink = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "code"
pygments_style = "friendly"
pygments_dark_style = "monokai"
# What the network is needed for stays out of a build.
intersphinx_mapping: dict[str, Any] = {}
suppress_warnings = ["misc.highlighting_failure"]
smartquotes = False

TREE = {
    "Start": ["docs/coming-from", "docs/train", "docs/examples"],
    "Guides": [
        "docs/optimizers",
        "docs/low-precision",
        "docs/schedules",
        "docs/dropout",
        "docs/norm",
        "docs/activation",
        "docs/nn",
        "docs/training",
        "docs/metrics",
        "docs/checkpoints",
    ],
    "With other libraries": ["docs/torch", "docs/sklearn", "docs/distributed"],
    "Machines": ["docs/install", "docs/threads", "docs/exactness", "docs/benchmarks"],
    "Reference": [
        "docs/site/made/api/index",
        "docs/site/made/examples/index",
        "docs/site/made/reports",
    ],
    "Project": ["CHANGELOG", "CONTRIBUTING", "docs/policy", "SECURITY", "CODE_OF_CONDUCT"],
}
# A page of the API for each: title, and where its names are listed. They are shown by the name that
# users have for them.
API = {
    "optimizers": ("Optimizers", "gradstep.optim.optimizers"),
    "optimizer": ("What all optimizers share", "gradstep.optim.optimizer"),
    "schedules": ("Learning-rate schedules", "gradstep.optim.schedules"),
    "gradients": ("Gradients", "gradstep.optim.gradients"),
    "averages": ("Averages", "gradstep.optim.averages"),
    "norm": ("Normalisation", "gradstep.ops.norm"),
    "dropout": ("Dropout", "gradstep.ops.dropout"),
    "activations": ("Activations", "gradstep.ops.activations"),
    "losses": ("Losses", "gradstep.ops.losses"),
    "fused": ("Bias, activation and dropout in one pass", "gradstep.ops.fused"),
    "nn": ("Layers and networks", "gradstep.nn"),
    "init": ("Initial values", "gradstep.nn.init"),
    "runtime": ("Threads and instruction sets", "gradstep.runtime"),
    "checkpoint": ("Checkpoints", "gradstep.checkpoint"),
    "train": ("Tools of training", "gradstep.train"),
    "metrics": ("Metrics", "gradstep.train.metrics"),
    "sklearn": ("scikit-learn's estimators", "gradstep.sklearn"),
    "distributed": ("Several processes", "gradstep.distributed"),
    "torch": ("PyTorch's optimizers and modules", "gradstep.torch"),
}


def setup(app: Any) -> None:
    app.connect("config-inited", lambda app, config: make_pages())
    app.connect("source-read", add_tree)
    app.connect(
        "autodoc-skip-member", lambda app, what, name, obj, skip, o: skip or not is_ours(obj)
    )
    app.connect("autodoc-process-docstring", to_rst)
    app.connect("build-finished", make_index)


def add_tree(app: Any, name: str, source: list[str]) -> None:
    """The landing page is the README, beside which this adds what a site has in its margin."""
    if name != root_doc:
        return
    for caption, pages in TREE.items():
        lines = "\n".join(f"/{page}" for page in pages if (ROOT / f"{page}.md").exists())
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def make_index(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def make_pages() -> None:
    shutil.rmtree(MADE, ignore_errors=True)
    pages = [page for page in API if page != "torch" or find_spec("torch")]
    for page in pages:
        write(f"api/{page}.md", api_page(*API[page]))
    write("api/index.md", "# API\n```{toctree}\n:maxdepth: 2\n\n" + "\n".join(pages) + "\n```\n")
    programs = sorted((ROOT / "examples").glob("*.py")) + sorted((ROOT / "examples").glob("*/*.py"))
    programs = [path for path in programs if "__main__" in path.read_text()]
    cards = [example(path) for path in programs]
    names = [name(path) for path in programs]
    write(
        "examples/index.md",
        "# Gallery\nWhat the pictures say stands in [Examples](/docs/examples.md) and "
        "[gradstep.torch](/docs/torch.md).\n\n::::{grid} 1 2 2 2\n:gutter: 3\n\n"
        + "\n".join(cards)
        + f"\n::::\n\n{toctree(names)}",
    )
    reports = sorted((ROOT / "bench" / "results").rglob("*.md"))
    listed = [path.relative_to(ROOT).with_suffix("").as_posix() for path in reports]
    titles = "\n".join(f"{of_report(path)} </{p}>" for path, p in zip(reports, listed, strict=True))
    write(
        "reports.md",
        "# Benchmark reports\nEach as `python -m bench` wrote it, with its command, machine and "
        "spread. [How they are made](/docs/benchmarks.md)\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{titles}\n```\n",
    )


def api_page(title: str, module: str) -> str:
    found, public = import_module(module), import_module("gradstep")
    text = f"# {title}\n```{{eval-rst}}\n.. automodule:: {module}\n\n"
    own = [
        name for name, value in vars(found).items() if getattr(value, "__module__", "") == module
    ]
    for name in getattr(found, "__all__", [name for name in own if hasattr(public, name)]):
        value = getattr(found, name)
        home = "gradstep" if getattr(public, name, None) is value else module
        kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
        if kind == "data" or inspect.ismodule(value) or not is_ours(value):
            continue
        text += f".. auto{kind}:: {home}.{name}\n"
        if kind == "class":
            text += "   :members:\n   :show-inheritance:\n"
        text += "\n"
    return text + "```\n"


def is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "gradstep")).startswith("gradstep")


def write(path: str, text: str) -> None:
    (MADE / path).parent.mkdir(parents=True, exist_ok=True)
    (MADE / path).write_text(text)


def toctree(names: list[str]) -> str:
    return "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def name(path: Path) -> str:
    return path.relative_to(ROOT / "examples").with_suffix("").as_posix().replace("/", "-")


def of_report(path: Path) -> str:
    folders = path.parent.relative_to(ROOT / "bench" / "results").parts
    return " ".join(folders).capitalize() or "All suites"


def example(path: Path) -> str:
    """Writes the page of an example; gives its card."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    title = text.split("\n")[0].rstrip(".:")
    rest = "\n".join(text.split("\n")[1:])
    picture = ROOT / "docs" / "examples" / f"{path.stem}.png"
    where = path.relative_to(ROOT).as_posix()
    shown = f"![{title}](/docs/examples/{picture.name})\n\n" if picture.exists() else ""
    write(
        f"examples/{name(path)}.md",
        f"# {title}\n{shown}{rest}\n\n```{{literalinclude}} /{where}\n:language: python\n```\n",
    )
    image = f":img-top: /docs/examples/{picture.name}\n" if picture.exists() else ""
    link = f":link: {name(path)}\n:link-type: doc\n"
    return f":::{{grid-item-card}} {title}\n{image}{link}\n`{where}`\n:::\n"


def to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and doctests: nothing else in them is markup."""
    if what == "class" and obj.__doc__ == getattr(obj.__mro__[1], "__doc__", None):
        lines[:] = []
    if ".. note::" in lines:  # torch's own, about calling a module
        del lines[lines.index(".. note::") :]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    lines[:] = [*"\n\n".join(map(paragraph, paragraphs)).split("\n"), ""]


def paragraph(text: str) -> str:
    if text.lstrip().startswith(">>>"):
        return inspect.cleandoc(text)
    between = " "
    if heading := re.match(r" *(.+)\n *-{3,}(\n|$)", text):
        text, between = text[heading.end() :], " — "
    parts = re.split(r"(`[^`]*`)", text)
    text = "".join(
        f"`{part}`" if part.startswith("`") else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part)
        for part in parts
    )
    if heading or re.search(r"^ ", text, re.MULTILINE):  # items, each with what is indented below
        items = re.findall(r"^\S.*(?:\n +.*)*", inspect.cleandoc(text), re.MULTILINE)
        joined = [re.sub(r"\n +", " ", re.sub(r"\n +", between, item, count=1)) for item in items]
        text = "\n".join(f"- {item}" for item in joined)
    return f"**{heading[1]}**\n\n{text}" if heading else text
