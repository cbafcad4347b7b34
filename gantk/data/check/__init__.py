"""`gantk data check`: what images are and what is wrong with them, before anything is trained."""
