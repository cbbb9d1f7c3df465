"""The upper bounds of numbers. Each is far above what is published, and low enough that nothing hangs or overflows."""

MAX_BLOCKS = 16  # each halves the image: 65,536 pixels would be one after 16
MAX_LAYERS = 1_000  # of all blocks: the deepest published network of the family has 250
MAX_CHANNELS = 65_536  # of any layer
MAX_CLASSES = 1_000_000  # ImageNet-21k has 21,841
MAX_WEIGHTS = 2**30  # 4 GiB in float32; training holds them three times and keeps two checkpoints
MAX_EPOCHS = 100_000  # a row of the history and a point of the curves each
MAX_BATCH = 2**20  # the largest published one for ImageNet is 2**17
MAX_STEPS = 10**9  # between checkpoints
MAX_RATE = 1_000.0  # of learning: beyond it float32 overflows within steps
MAX_DECAY = 1.0  # weight decay and group lasso: at 1 a step with learning rate 1 leaves nothing of the weights
MAX_ALPHA = 100.0  # of mixing: from there on every pair is mixed by about one half
MAX_PAD = 65_536  # pixels
MAX_CROP = 4_096  # pixels
MAX_OPERATIONS = 14  # of RandAugment on an image: all that there are
MAX_MAGNITUDE = 30
