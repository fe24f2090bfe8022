"""Shipped studies, one file each; its ``STUDY`` is what ``compare.py`` runs."""
