"""What the stages of the pipeline share. Imports run one way, top to bottom of this map.

errors       the one exception that is shown to the user as a message, without a traceback
stage        how a stage's process lives and ends: its script imports it first
section      what every mapping of params.yaml is: closed, frozen
recipe       the part of params.yaml that says how a network is trained
params       typed params.yaml: the only module that reads it
paths        where each artefact lives, relative to the current folder
record       JSON and CSV writers, progress bars, provenance
disk         whether there is room, before work starts
rows         tables larger than memory
sources/     sample, kaggle, archive, cifar: put a readable archive in data/<name>/archive
picture      the only place that decodes images
near         pairs of images that look alike
manifest     checks, hashes, duplicates, stratified split
packing      decode every image once into uint8 arrays
runtime      allocator, device, precision, peak memory: import it before torch
crop         boxes, and two ways to cut them out
warp         rotation, zoom, perspective, padding crop
colour       brightness, contrast, saturation, hue, erasing
augment      draw all of these for a batch
fused        apply them on a GPU, in a few kernels
look         apply them: images as a network gets them
mix          MixUp, CutMix
pixels       read the packed files, row by row
feed         bring pixels to the device: read, resident or streamed
packed       open the arrays, give batches on a device
model        build, head, blocks, freeze, save, load
optim        optimizers, schedules, average of the weights
range_test   the LR range test and its suggestions
progress     what a run learns, and the eye on its loss
passes       forward and backward, recorded as a CUDA graph where it pays
checkpoint   keyed, atomic, locked
loop         fit() and predict()
ceiling      how fast the steps would be if images cost nothing
predictions  the kept answers for every test image
answers      the most probable classes and the loss, image by image
calibration  how sure against how right, and the temperature that mends it
scores       metrics and their intervals
groups       makes, body types and years of class names
paired       two models on the same images: difference, verdict
gradcam      where a network looked
gallery      photos for the report
leaderboard  rank the models
chart        the look of all charts, PNG
figures      charts of training runs
class_figures  charts of classes
report       the offline HTML page
photos       photos to predict, wherever they are
labels       a user's CSV of classes
extras       packages that some commands need and the pipeline does not
exported     the folder that export makes: its files, and where it is found
predict      what a trained model says of photos
difference   what a change did: to models, classes and images
difference_text  the same as Markdown
sides        what a revision holds, for a difference
diff         what one revision did against another
measured     what the project measured of a model that it trained itself
probe        images on which an exported graph is compared with its network
graph        a trained network as ONNX, and the proof that it answers as the network does
card         the model card
folder       replace a folder as a whole
export       a trained model as a folder for the Hugging Face Hub
demo         a page that answers photos dropped on it
cli          the command finegrain
"""
