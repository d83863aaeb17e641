"""Planted bugs take minutes each: their test is collected where ``JETFLOW_PLANTED`` is set, and ``just planted`` runs them without pytest."""

import os

collect_ignore = [] if "JETFLOW_PLANTED" in os.environ else ["test_planted.py"]
