"""Targets: what a teacher says of a view (raw logits, pooled feature per substage), its codec, its statistics."""
