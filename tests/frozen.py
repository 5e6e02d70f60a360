"""Imported last by the server of `commands`: what it has imported is nothing for the collector of a forked process.

Otherwise each would go through half a million objects at its first chance, and copy the pages that they lie in.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
