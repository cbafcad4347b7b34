"""Trained models at work: native images in, native images out, of any size, a file or a folder at a time."""
