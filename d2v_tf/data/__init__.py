from d2v_tf.data import process_end as process_end  # what it does at the end is wanted of all data
