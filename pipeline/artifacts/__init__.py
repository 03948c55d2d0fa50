"""What is stored between the steps: how it is named, written, committed, pinned and read."""
