"""From an archive to arrays: check the images, assign them to splits, decode them once.

label_table      read tables of labels, and the files with labels of known datasets
image_labels     match the rows of a table with the images of an archive
inspection       open every image of an archive once; list the bad ones
corrections      drop images and change labels, as a table says
decoding         decode one image file to upright RGB
groups           images that stay in one split; whole groups for test and val
assignment       assign images to train, val and test
near_duplicates  pairs of perceptual hashes that differ in a few bits
manifest         which image belongs to which split; the rows of manifest.csv
pack_writer      decode every image into uint8 arrays
"""
