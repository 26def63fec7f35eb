"""Distributed training toolkit for text-based person search."""
