"""Models on the Hugging Face hub: `gantk push RUN USER/NAME`, and hf://USER/NAME wherever a model
is used.
"""
