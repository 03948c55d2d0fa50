"""What a network is worth: predictions per video, metrics with intervals, cost, paired comparisons."""
