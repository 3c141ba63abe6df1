"""Blurry-sharp training pairs made from sharp videos; the command is `synthesize_blur.py`.

`scan` analyses a source, `plan` decides which clips to make from it, `pairs` makes the pairs,
`clip` writes them, and `convert` does all of this for a list of sources.
"""
