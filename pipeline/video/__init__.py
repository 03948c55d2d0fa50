"""From a video file to canonical rasters: sampling by time, views, two readers, one resize, a killable child."""
