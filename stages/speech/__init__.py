"""Pretrained speech helpers behind small interfaces."""
