"""Neural audio codecs: latents, quantizers, decoders and the losses that train them."""
