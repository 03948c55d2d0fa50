"""Networks: every one takes the canonical raster and gives logits and one pooled feature per substage."""
