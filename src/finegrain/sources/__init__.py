"""Where images come from: readable archives, and the modules that put one into a folder.

archive          read the images of archive files; store local archives or folders
cifar100         convert CIFAR-100 to a zip of class folders
compressed_file  gzip, bzip2 and xz, read to their end
index            which files are images; index of those with class and official split; temporary SQLite tables
kaggle           download a Kaggle dataset
layout           what paths inside an archive mean
name_encoding    which encoding the names of an archive or of a folder are in
tar_file         read a tar file in streaming passes
zip_check        compare a zip's directory with the files that it holds
zip_file         read a zip file in constant memory
"""
