"""
``python -m broadway_sync``: the command ``broadway-sync``.
"""

from __future__ import annotations

from .runner.cli import main

if __name__ == "__main__":
    main()
