"""Where images come from: each module puts one readable archive into a folder."""
