"""The site: `make docs` builds it, strictly, from the notebooks as committed."""

import shutil
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
# The notebooks and the figures are pages too; the copies are git's to ignore.
for name in ("notebooks", "bench"):
    kinds = shutil.ignore_patterns("*.py", "*.json", ".ipynb_checkpoints", "__pycache__")
    shutil.copytree(HERE.parent / name, HERE / name, ignore=kinds, dirs_exist_ok=True)

project = "Memorystore Chat"
author = "The Memorystore Chat contributors"
copyright = "2026, the Memorystore Chat contributors"  # noqa: A001 - Sphinx's name for it
release = version = installed("memorystore-chat")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "bench"]
suppress_warnings = ["myst.header"]  # a notebook's first heading below its title may skip a level

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"

nitpicky = True
# Types of other libraries, and of typing: their pages are elsewhere.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!memorystore_chat).*"),
    (r"py:.*", r"memorystore_chat\.(commands|.*\._).*"),
]

# These answer a person who has signed in.
linkcheck_ignore = [
    r"https://colab\.research\.google\.com/.*",
    r"https://console\.cloud\.google\.com/.*",
]

html_theme = "pydata_sphinx_theme"
html_title = project
html_baseurl = "https://your-org.github.io/memorystore-chat/"
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_theme_options = {
    "github_url": "https://github.com/your-org/memorystore-chat",
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Pages without pages below them need no column of links.
html_sidebars: dict[str, list[str]] = {
    page: [] for page in ("benchmarks", "changelog", "glossary", "index")
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
