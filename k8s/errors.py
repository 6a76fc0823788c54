"""What can go wrong with manifests and clusters."""

from __future__ import annotations


class KubernetesError(Exception):
    """Kubernetes cannot do what was asked."""
