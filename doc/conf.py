"""Sphinx configuration."""

import importlib.metadata
import urllib.error
import urllib.request

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
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

html_theme = "alabaster"
html_theme_options = {
    "description": "Convex refits and certificates for neural networks in scikit-learn",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_show_sourcelink = False

autosummary_generate = True
# The template in _templates lists the methods, so numpydoc need not.
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("sklearn_pgb",),
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
}

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
