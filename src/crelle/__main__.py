"""``python -m crelle`` is the command ``crelle``."""

from __future__ import annotations

from crelle.cli import main

if __name__ == "__main__":
    main()
