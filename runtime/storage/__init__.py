"""The files of a bundle: in a folder, a zip archive, or package resources."""
