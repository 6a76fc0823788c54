"""Kubernetes Job manifests."""
