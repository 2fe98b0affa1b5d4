"""From an archive to arrays: check the images, assign them to splits, decode them once.

assignment       assign images to train, val and test
decoding         decode one image file to upright RGB
inspection       open every image of an archive once; list the bad ones
manifest         which image belongs to which split; the rows of manifest.csv
near_duplicates  pairs of perceptual hashes that differ in a few bits
pack_writer      decode every image into uint8 arrays
"""
