"""wavevq: VQ-VAE for speech. Train, encode, convert, generate, measure."""

__version__ = "0.1.0"
