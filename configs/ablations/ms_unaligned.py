# Five frames as they are, not warped to the centre frame.
_base_ = ['../small/dblrnet_ms.py']

model = dict(generator=dict(align=False))
