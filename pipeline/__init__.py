"""StagedKD: staged knowledge distillation of video classifiers on a Ray cluster."""
