"""From a folder of videos to a manifest and a plan; the generator of simulated videos. No torch."""
