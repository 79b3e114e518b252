from d2v_tf.data import process_end as process_end  # for what it does at the process' end
