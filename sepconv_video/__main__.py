"""`python -m sepconv_video`."""

from sepconv_video.cli import main

main()
