"""The networks that methods are built from, each one class for both 2-D and 3-D.

Read first: blocks, then unet and resnet; products and winograd compute convolutions on CPUs faster.
Imports neither losses nor data: a network knows only the shape of its inputs.
"""
