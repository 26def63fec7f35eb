"""A page in the browser on an index of pictures: `tbps serve`."""
