"""A method outside of the toolkit: see tbps/methods/README.md."""
