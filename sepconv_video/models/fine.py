"""`fine`: our network for a GPU, or for patience: `Fast` with motion that is found in two ways."""

from sepconv_video.models.fast import Fast


class Fine(Fast):
    """The network of `Fast`, with weights of its own; a quarter more time on a CPU."""

    thorough = True
