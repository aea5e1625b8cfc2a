"""The light profiles, one to a file. A file here is found and registered without further ado."""
