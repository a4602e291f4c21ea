"""Sphinx configuration."""

import importlib.metadata
import shutil
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # gallery_order

project = "sklearn-pgb"
author = "The sklearn-pgb developers"
copyright = f"2026, {author}"
release = importlib.metadata.version("sklearn-pgb")
version = release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

# -- HTML ------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
# The landing page and pages without siblings use the whole width.
html_sidebars = {
    page: []
    for page in (
        "changes",
        "choosing",
        "comparison",
        "faq",
        "getting_started",
        "index",
        "install",
        "theory",
    )
}
html_theme_options = {
    "logo": {"text": html_title, "alt_text": project},
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version", "theme-version"],
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_nav_level": 1,
    "show_toc_level": 2,
}

# -- API and gallery -------------------------------------------------------------------

autosummary_generate = True
# Methods in the table of contents go without the name of their class.
toc_object_entries_show_parents = "hide"
# The template in _templates lists the methods, so numpydoc need not.
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "subsection_order": "gallery_order.section",
    "within_subsection_order": "gallery_order.Story",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("sklearn_pgb",),
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
}

# -- Formulas --------------------------------------------------------------------------

# A copy of MathJax, so that pages load nothing from other sites.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
MATHJAX_FILES = ("tex-chtml.js", "output/chtml/fonts/woff-v2")
mathjax_path = "mathjax/tex-chtml.js"


def copy_mathjax(app, exception):
    """Copy what formulas need: a script and its fonts."""
    target = Path(app.outdir, "_static/mathjax")
    if exception is None and app.builder.format == "html" and not target.exists():
        for name in MATHJAX_FILES:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (MATHJAX / name).is_dir() else shutil.copy
            copy(MATHJAX / name, target / name)


def setup(app):
    app.connect("build-finished", copy_mathjax)


# -- Links to other projects -----------------------------------------------------------

INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "sklearn": "https://scikit-learn.org/stable/",
    "joblib": "https://joblib.readthedocs.io/en/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}


def answers(url):
    """Whether the documentation at `url` serves its inventory."""
    request = urllib.request.Request(f"{url}objects.inv", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=3):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


# An inventory that cannot be fetched is a warning, and warnings are errors here:
# without a network, or with one site down, the build goes on without those links.
intersphinx_mapping = (
    {name: (url, None) for name, url in INVENTORIES.items() if answers(url)}
    if answers(INVENTORIES["python"])
    else {}
)
if intersphinx_mapping:
    extensions.append("sphinx.ext.intersphinx")
