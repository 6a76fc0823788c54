"""Metrics of a result or prediction: the columns of their rows."""

from __future__ import annotations

DEFINITION = """metric_name      : varchar(64)
        ---
        metric_value=null : float64               # NULL if not finite
        metric_direction : enum('max', 'min')     # which way is better
        metric_note=''   : varchar(255)"""
