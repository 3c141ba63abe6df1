"""Blurry-sharp training pairs made from sharp videos; `synthesize_blur.py` is the command.

`scan` looks through a source, `plan` decides which clips to make of it, `pairs` makes the pairs,
`clip` writes them, `convert` does all of this for a list of sources.
"""
