"""An index of one's own pictures, and searching it by a sentence or a picture."""
