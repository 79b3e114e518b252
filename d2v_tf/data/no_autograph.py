"""Input pipelines are traced as they are written."""

import tensorflow as tf

# A decorator of what builds a dataset, for the functions that it maps. They say tf.cond where
# they mean it; to look for Python's own conditions in them takes a second of each start.
no_autograph = tf.autograph.experimental.do_not_convert
