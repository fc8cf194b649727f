"""Every action interrupted at each of its effects: nothing may be left unnamed, a rerun must succeed, nothing of
others may be touched.

    python -m lab.matrix [--quick] [--jobs N] [ACTION...]
"""

from __future__ import annotations
