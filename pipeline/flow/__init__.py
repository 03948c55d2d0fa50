"""What happens in which order, and what is skipped: steps over keyed artefacts, and the programs made of them."""
