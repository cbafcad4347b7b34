"""What gantk can tell about itself: `gantk list`, `show`, `recipes`, `plugins`, `doctor`.

Read first: commands.
Imports nothing of the API; only trial_commands trains, a few steps at a time.
"""
