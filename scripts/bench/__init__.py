"""Programs that measure speed, and the one that draws the figures of the documents."""
