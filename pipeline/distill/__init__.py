"""Training of one network by plain torch: objective, phases, cascade plan, state and the only training loop."""
