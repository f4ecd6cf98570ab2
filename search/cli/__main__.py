"""``python -P -m search.cli``: the same as ``mlc-search``."""

from search.cli import main

main()
