"""Videos and folders of images: read, encoded and muxed with PyAV, without torch."""
