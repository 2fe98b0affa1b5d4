"""Fine-tune image classifiers reproducibly; README.md has the map of the packages."""
