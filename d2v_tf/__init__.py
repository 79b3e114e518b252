"""data2vec in Keras: self-supervised pre-training for vision, speech and text."""

from d2v_tf.backbones.preprocessing import Data2VecAudioConverter as Data2VecAudioConverter
from d2v_tf.backbones.preprocessing import Data2VecImageConverter as Data2VecImageConverter
from d2v_tf.backbones.speech import Data2VecSpeechBackbone as Data2VecSpeechBackbone
from d2v_tf.backbones.text import Data2VecTextBackbone as Data2VecTextBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone as Data2VecVisionBackbone
from d2v_tf.data.tokenization import Data2VecTextTokenizer as Data2VecTextTokenizer
from d2v_tf.data.transcribed import pad_labels as pad_labels
from d2v_tf.exporting.export import export as export
from d2v_tf.finetuning.audio_classifier import Data2VecAudioClassifier as Data2VecAudioClassifier
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC as Data2VecSpeechCTC
from d2v_tf.finetuning.decoding import BeamSearchDecoder as BeamSearchDecoder
from d2v_tf.finetuning.decoding import GreedyDecoder as GreedyDecoder
from d2v_tf.finetuning.freezing import FreezeBackbone as FreezeBackbone
from d2v_tf.finetuning.image_classifier import Data2VecImageClassifier as Data2VecImageClassifier
from d2v_tf.finetuning.letters import decode_letters as decode_letters
from d2v_tf.finetuning.letters import encode_letters as encode_letters
from d2v_tf.finetuning.letters import letter_vocabulary as letter_vocabulary
from d2v_tf.finetuning.optimizer import LayerwiseAdamW as LayerwiseAdamW
from d2v_tf.finetuning.optimizer import lr_scales as lr_scales
from d2v_tf.finetuning.preprocessors import (
    Data2VecAudioClassifierPreprocessor as Data2VecAudioClassifierPreprocessor,
)
from d2v_tf.finetuning.preprocessors import (
    Data2VecImageClassifierPreprocessor as Data2VecImageClassifierPreprocessor,
)
from d2v_tf.finetuning.recognition import evaluate_ctc as evaluate_ctc
from d2v_tf.finetuning.text_classifier import Data2VecTextClassifier as Data2VecTextClassifier
from d2v_tf.finetuning.text_preprocessor import (
    Data2VecTextClassifierPreprocessor as Data2VecTextClassifierPreprocessor,
)
from d2v_tf.interop.huggingface import save_huggingface as save_huggingface
from d2v_tf.interop.loading import load_backbone as load_backbone
from d2v_tf.interop.loading import load_task as load_task
from d2v_tf.interop.preprocessing import load_preprocessing as load_preprocessing
from d2v_tf.pretraining.data2vec import Data2Vec as Data2Vec
